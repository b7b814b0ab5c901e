// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the attention kernels on tensor cores share. A warp owns 16 kM rows (of queries, or of keys) and keeps
// them as A fragments; the rows of the other side stream through shared memory, 64 at a time, two stages.
// A row in shared memory is 16 bytes longer than its numbers: rows are then an odd multiple of 16 bytes
// apart for every head width that is a multiple of 16, so the eight rows of a matrix lie in different banks.

#include "ops/cuda/attention.hpp"
#include "ops/cuda/device_code.hpp"

namespace dino::cuda::attention {

constexpr int kStreamed = 64;  ///< rows of a streamed tile
constexpr uint32_t kMinusInfinity = 0xff800000u;
constexpr float kLog2E = 1.4426950408889634f;

template <int kWidth>
constexpr int kPitch = kWidth + 8;  ///< elements
/// Of two matrices.
template <int kWidth>
constexpr int kStageElements = 2 * kStreamed* kPitch<kWidth>;

// ---- which rows a block owns

/// Tiles of `rows` rows, over all sequences: sequence s begins at tile starts[s] / rows + s, which leaves
/// room for all its tiles whatever the lengths are; less than one tile per sequence stays empty. There are
/// tiles_of(all rows, count, rows) of them (attention.hpp).
__device__ __forceinline__ int64_t first_tile(const int64_t* starts, int64_t sequence, int rows) {
  return static_cast<uint32_t>(starts[sequence]) / static_cast<uint32_t>(rows) + sequence;
}
struct Tile {
  int64_t sequence;
  int first_row;  ///< in the sequence; not below its length where the tile is empty
};
/// A search by whole warps: each step divides the sequences by 32.
__device__ __forceinline__ Tile tile_at(const int64_t* starts, int64_t count, int rows, int64_t number) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int64_t low = 0, end = count;
  while (end - low > 1) {
    const int64_t step = (end - low + kWarp - 1) / kWarp, own = low + lane * step;
    const bool reached = own < end && first_tile(starts, own, rows) <= number;
    const int64_t last = __popc(__ballot_sync(kAllLanes, reached)) - 1;
    low += last * step;
    end = low + step < end ? low + step : end;
  }
  return {low, static_cast<int>(number - first_tile(starts, low, rows)) * rows};
}

/// Rows of the two sides, one sequence of each. It stays in shared memory: registers are needed elsewhere.
struct Place {
  int64_t own_begin, other_begin;  ///< the first of the block's own rows, of the other side's
  int64_t own_term, other_term;    ///< the same, as rows of terms (attention.hpp)
  int head;
  int own_left, other_length;  ///< own rows from own_begin on, no more than 0 where there are none
};
/// Of the block, which owns up to `rows` rows. One barrier.
__device__ __forceinline__ const Place& place_of_block(const int64_t* own_starts, const int64_t* other_starts,
                                                       int64_t count, int rows) {
  Place& place = block_shared<Place>();
  if (threadIdx.x < kWarp) {
    const Tile tile = tile_at(own_starts, count, rows, blockIdx.x);
    if (threadIdx.x == 0) {
      const int64_t own = own_starts[tile.sequence], other = other_starts[tile.sequence];
      place.own_begin = own + tile.first_row;
      place.other_begin = other;
      place.own_term = first_tile(own_starts, tile.sequence, kTermRows) * kTermRows + tile.first_row;
      place.other_term = first_tile(other_starts, tile.sequence, kTermRows) * kTermRows;
      place.head = static_cast<int>(blockIdx.y);
      place.own_left = static_cast<int>(own_starts[tile.sequence + 1] - own) - tile.first_row;
      place.other_length = static_cast<int>(other_starts[tile.sequence + 1] - other);
    }
  }
  __syncthreads();
  return place;
}

// ---- between global and shared memory

/// Starts copying `rows` rows; those from `valid` on are zero. By `threads` threads.
template <class T, int kWidth>
__device__ __forceinline__ void copy_rows(T* to, const T* from, int stride, int rows, int valid, int thread,
                                          int threads) {
  constexpr int kChunks = kWidth / 8;
#pragma unroll 1  // the addresses of several copies would cost registers
  for (int i = thread; i < rows * kChunks; i += threads) {
    const int row = i / kChunks, column = i % kChunks * 8;
    copy_16_async(to + row * kPitch<kWidth> + column, from + static_cast<int64_t>(row) * stride + column,
                  row < valid);
  }
}
/// A streamed tile has whole blocks of 16 rows.
__device__ __forceinline__ int rows_to_copy(int left) {
  return left >= kStreamed ? kStreamed : (left + 15) / 16 * 16;
}

/// A warp's results, times a factor per row, into its rows of shared memory.
template <class T, int kWidth, int kM>
__device__ __forceinline__ void stage_rows(T* to, const float (&sums)[kM][kWidth / 8][4],
                                           const float (&factor)[kM][2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      T* row = to + (16 * m + 8 * half + lane / 4) * kPitch<kWidth> + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n)
        *reinterpret_cast<uint32_t*>(row + 8 * n) =
            pack_pair<T>(sums[m][n][2 * half] * factor[m][half], sums[m][n][2 * half + 1] * factor[m][half]);
    }
}
/// And from there to global memory, 16 bytes at a time.
template <class T, int kWidth>
__device__ __forceinline__ void write_rows(T* to, int stride, const T* from, int rows) {
  constexpr int kChunks = kWidth / 8;
  __syncwarp();
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < rows * kChunks; i += kWarp) {
    const int row = i / kChunks, column = i % kChunks * 8;
    store_pack(to + static_cast<int64_t>(row) * stride + column,
               load_pack(from + row * kPitch<kWidth> + column));
  }
}

// ---- fragments and products

/// Two products that share their left side; a load_matrices brings both right sides.
template <class T>
__device__ __forceinline__ void multiply_pair(float (&low)[4], float (&high)[4], const uint32_t (&left)[4],
                                              const uint32_t (&words)[4]) {
  const uint32_t of_low[2] = {words[0], words[1]}, of_high[2] = {words[2], words[3]};
  mma_16x8x16<T>(low, left, of_low);
  mma_16x8x16<T>(high, left, of_high);
}
/// Where a lane's row lies, for load_matrices, in a block of 16 rows that are the columns of a product's
/// right side; and in one whose rows are the rows of a product's left side, or transposed of its right side.
template <int kWidth>
__device__ __forceinline__ int row_of_score() {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return (lane / 16 * 8 + lane % 8) * kPitch<kWidth> + lane / 8 % 2 * 8;
}
template <int kWidth>
__device__ __forceinline__ int row_as_is() {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  return lane % 16 * kPitch<kWidth> + lane / 16 * 8;
}

/// A warp's own 16 kM rows as A fragments.
template <class T, int kWidth, int kM>
__device__ __forceinline__ void load_own(uint32_t (&own)[kM][kWidth / 16][4], const T* rows) {
  const T* from = rows + row_as_is<kWidth>();
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int k = 0; k < kWidth / 16; ++k) load_matrices(own[m][k], from + 16 * m * kPitch<kWidth> + 16 * k);
}

/// scores[16 kM, 16 kBlocks] = own[16 kM, kWidth] rows[16 kBlocks, kWidth]^T.
template <class T, int kWidth, int kM, int kBlocks>
__device__ __forceinline__ void score(float (&scores)[kM][2 * kBlocks][4],
                                      const uint32_t (&own)[kM][kWidth / 16][4], const T* rows) {
  const T* from = rows + row_of_score<kWidth>();
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < 2 * kBlocks; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[m][n][e] = 0;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block)
#pragma unroll
    for (int k = 0; k < kWidth / 16; ++k) {
      uint32_t words[4];
      load_matrices(words, from + 16 * block * kPitch<kWidth> + 16 * k);
#pragma unroll
      for (int m = 0; m < kM; ++m)
        multiply_pair<T>(scores[m][2 * block], scores[m][2 * block + 1], own[m][k], words);
    }
}

/// sums[16 kM, kWidth] += weights[16 kM, 16 kBlocks], rounded to T, rows[16 kBlocks, kWidth]. The weights are
/// as score() leaves them, which is how an A fragment wants them.
template <class T, int kWidth, int kM, int kBlocks>
__device__ __forceinline__ void add_weighted(float (&sums)[kM][kWidth / 8][4],
                                             const float (&weights)[kM][2 * kBlocks][4], const T* rows) {
  const T* from = rows + row_as_is<kWidth>();
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    uint32_t left[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        const float* pair = &weights[m][2 * block + word / 2][word % 2 * 2];
        left[m][word] = pack_pair<T>(pair[0], pair[1]);
      }
#pragma unroll
    for (int n = 0; n < kWidth / 16; ++n) {
      uint32_t words[4];
      load_matrices_transposed(words, from + 16 * block * kPitch<kWidth> + 16 * n);
#pragma unroll
      for (int m = 0; m < kM; ++m) multiply_pair<T>(sums[m][2 * n], sums[m][2 * n + 1], left[m], words);
    }
  }
}

}  // namespace dino::cuda::attention
