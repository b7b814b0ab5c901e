// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores, forward: softmax as the keys stream by (arXiv 2205.14135, 2307.08691), in
// base 2.

#include "ops/cuda/attention.hpp"
#include "ops/cuda/attention_tiles.hpp"

namespace dino::cuda {
namespace attention {

/// m16 blocks of rows that a warp owns: two let a fragment of K or V serve four products instead of two,
/// wider heads lack the registers.
template <int kWidth>
constexpr int kOwnBlocks = kWidth <= 64 ? 2 : 1;
/// Their own rows fit into one stage.
constexpr int kMaxWarps = 4;

/// What a warp knows of its rows so far; lane 4 g + t keeps rows g and g + 8 of each block.
template <int kWidth, int kM>
struct Rows {
  float out[kM][kWidth / 8][4];  ///< sums of weights times v
  float base[kM][2];             ///< a weight is 2^((score - base) factor)
  float sum[kM][2];              ///< of weights, of this lane's columns
};

template <int kWidth, int kM>
__device__ __forceinline__ void begin(Rows<kWidth, kM>& rows) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    rows.base[m][0] = rows.base[m][1] = float_of_bits(kMinusInfinity);
    rows.sum[m][0] = rows.sum[m][1] = 0;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) rows.out[m][n][e] = 0;
  }
}

/// Weights may grow to this power of two before a row takes a new base.
constexpr float kRoom = 8;

/// The largest scores of rows, over the four lanes that share them.
template <int kM, int kBlocks>
__device__ __forceinline__ void find_tops(float (&tops)[kM][2], const float (&scores)[kM][2 * kBlocks][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = scores[m][0][2 * half];
#pragma unroll
      for (int n = 0; n < 2 * kBlocks; ++n)
        top = fmaxf(top, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      tops[m][half] = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
    }
}

/// New bases for all rows of the warp where one of them has to have it. It is rare after the first keys:
/// sums are not scaled at every step.
template <int kWidth, int kM>
__device__ __forceinline__ void raise_bases(Rows<kWidth, kM>& rows, const float (&tops)[kM][2],
                                            float factor) {
  bool raise = false;
#pragma unroll
  for (int m = 0; m < kM; ++m)
    raise = raise || (tops[m][0] - rows.base[m][0]) * factor > kRoom ||
            (tops[m][1] - rows.base[m][1]) * factor > kRoom;
  if (__any_sync(kAllLanes, raise) == 0) return;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float base = fmaxf(rows.base[m][half], tops[m][half]);
      const float shrink = exp2_fast((rows.base[m][half] - base) * factor);
      rows.base[m][half] = base;
      rows.sum[m][half] *= shrink;
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
        rows.out[m][n][2 * half] *= shrink;
        rows.out[m][n][2 * half + 1] *= shrink;
      }
    }
}

/// Takes 16 kBlocks keys in, of which `left` exist.
template <class T, int kWidth, int kM, int kBlocks, bool kMasked>
__device__ __forceinline__ void attend(Rows<kWidth, kM>& rows, const uint32_t (&q)[kM][kWidth / 16][4],
                                       const T* k, const T* v, float factor, int left) {
  float weights[kM][2 * kBlocks][4], tops[kM][2];
  score<T, kWidth, kM, kBlocks>(weights, q, k);
  if (kMasked) {
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int i = 0; i < 8 * kBlocks; ++i)
        if (i / 4 * 8 + column + i % 2 >= left) weights[m][i / 4][i % 4] = float_of_bits(kMinusInfinity);
  }
  find_tops<kM, kBlocks>(tops, weights);
  raise_bases<kWidth, kM>(rows, tops, factor);
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float offset = rows.base[m][half] * factor;
#pragma unroll
      for (int n = 0; n < 2 * kBlocks; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          weights[m][n][e] = exp2_fast(weights[m][n][e] * factor - offset);
          rows.sum[m][half] += weights[m][n][e];
        }
    }
  add_weighted<T, kWidth, kM, kBlocks>(rows.out, weights, v);
}

/// Takes in a streamed tile, of whose keys `left` exist.
template <class T, int kWidth, int kM>
__device__ __forceinline__ void attend_tile(Rows<kWidth, kM>& rows, const uint32_t (&q)[kM][kWidth / 16][4],
                                            const T* k, float scale, int left) {
  const T* v = k + kStreamed * kPitch<kWidth>;
  const float factor = scale * kLog2E;
#pragma unroll 1
  for (int part = 0; part < kStreamed && part < left; part += 32) {
    const int at = part * kPitch<kWidth>;
    if (left - part >= 32)
      attend<T, kWidth, kM, 2, false>(rows, q, k + at, v + at, factor, left - part);
    else if (left - part > 16)
      attend<T, kWidth, kM, 2, true>(rows, q, k + at, v + at, factor, left - part);
    else
      attend<T, kWidth, kM, 1, true>(rows, q, k + at, v + at, factor, left - part);
  }
}

/// The warp's rows of the result, and their log-sum-exp (lse is that of its first row; may be null).
template <class T, int kWidth, int kM>
__device__ __forceinline__ void finish(const Rows<kWidth, kM>& rows, T* staged, T* out, int stride,
                                       float* lse, float scale, int count) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float factor[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = rows.sum[m][half];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      factor[m][half] = 1 / sum;
      const int row = 16 * m + 8 * half + lane / 4;
      if (lse != nullptr && lane % 4 == 0 && row < count) lse[row] = rows.base[m][half] * scale + logf(sum);
    }
  stage_rows<T, kWidth, kM>(staged, rows.out, factor);
  write_rows<T, kWidth>(out, stride, staged, count);
}

/// Grid: tiles of queries x heads.
template <class T, int kWidth>
__global__ void __launch_bounds__(kMaxWarps* kWarp, 2)
    forward_kernel(const T* q, const T* k, int q_stride, int kv_stride, const int64_t* query_starts,
                   const int64_t* key_starts, int64_t count, int64_t query_rows, float scale, T* out,
                   float* lse) {
  constexpr int kM = kOwnBlocks<kWidth>, kOwn = 16 * kM;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int warp = thread / kWarp, lane = thread % kWarp;
  const Place& place = place_of_block(query_starts, key_starts, count, threads / kWarp * kOwn);
  if (place.own_left <= 0) return;
  const int model = static_cast<int>(gridDim.y) * kWidth;
  const int own = place.own_left - warp * kOwn;  // queries of the warp, if it has as many; <= 0: none

  T* const stages = dynamic_shared<T>();
  T* const staged = stages + kStageElements<kWidth> + warp * kOwn * kPitch<kWidth>;
  const auto copy_tile = [&](int from) {
    T* to = stages + from / kStreamed % 2 * kStageElements<kWidth>;
    const int left = place.other_length - from, copied = rows_to_copy(left);
    const T* rows = k + (place.other_begin + from) * kv_stride + place.head * kWidth;
    copy_rows<T, kWidth>(to, rows, kv_stride, copied, left, thread, threads);
    copy_rows<T, kWidth>(to + kStreamed * kPitch<kWidth>, rows + model, kv_stride, copied, left, thread,
                         threads);
    copy_commit();
  };
  copy_rows<T, kWidth>(staged, q + (place.own_begin + warp * kOwn) * q_stride + place.head * kWidth, q_stride,
                       kOwn, own, lane, kWarp);
  copy_commit();
  copy_tile(0);
  copy_wait<1>();
  __syncwarp();
  uint32_t own_q[kM][kWidth / 16][4];
  load_own<T, kWidth, kM>(own_q, staged);

  Rows<kWidth, kM> rows;
  begin(rows);
  for (int from = 0; from < place.other_length; from += kStreamed) {
    copy_wait<0>();
    __syncthreads();  // the tile is there, and nobody reads the one before, or own rows
    if (from + kStreamed < place.other_length) copy_tile(from + kStreamed);
    if (own <= 0) continue;
    attend_tile<T, kWidth, kM>(rows, own_q, stages + from / kStreamed % 2 * kStageElements<kWidth>, scale,
                               place.other_length - from);
  }
  copy_wait<0>();
  __syncthreads();  // nobody reads a tile any more
  if (own <= 0) return;
  const int64_t first_query = place.own_begin + warp * kOwn;
  finish<T, kWidth, kM>(rows, staged, out + first_query * model + place.head * kWidth, model,
                        lse == nullptr ? nullptr : lse + place.head * query_rows + first_query, scale,
                        own < kOwn ? own : kOwn);
}

}  // namespace attention

template <class T>
void attention_forward(Stream& stream, const AttentionOperands<T>& call, T* out, float* lse) {
  with_head_width(call.width, [&](auto width) {
    constexpr int kWidth = width.value, kOwn = 16 * attention::kOwnBlocks<kWidth>;
    const int64_t warps = attention_warps(call.longest_queries, kOwn, attention::kMaxWarps);
    const LaunchShape shape{
        {static_cast<unsigned>(attention_tiles(call.query_rows, call.count, warps * kOwn)),
         static_cast<unsigned>(call.heads)},
        {static_cast<unsigned>(warps * kWarp)},
        2 * attention::kStageElements<kWidth> * sizeof(T)};
    launch("attention", attention::forward_kernel<T, kWidth>, shape, stream, call.q, call.k, call.q_stride,
           call.kv_stride, call.query_starts, call.key_starts, call.count, call.query_rows, call.scale, out,
           lse);
  });
}
template void attention_forward(Stream&, const AttentionOperands<bf16>&, bf16*, float*);
template void attention_forward(Stream&, const AttentionOperands<f16>&, f16*, float*);

}  // namespace dino::cuda
