// SPDX-License-Identifier: Apache-2.0
#pragma once
// How the kernels of this folder share out elements, rows and columns among threads. Each has two widths: one
// whose accesses are of 16 bytes (or what the elements make of them), for addresses and row lengths that are
// multiples of them, and one element at a time for all else.

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "ops/cuda/device_code.hpp"
#include "ops/cuda/launch.hpp"

namespace dino::cuda {

constexpr int kBlock = 256;  ///< threads of a block
constexpr int kBlockWarps = kBlock / kWarp;

// ---- groups of N elements

template <int N, class T>
__device__ __forceinline__ Group<T, N> load_group(const T* from) {
  return load_whole(reinterpret_cast<const Group<T, N>*>(from));
}
template <int N, class T>
__device__ __forceinline__ void store_group(T* to, const Group<T, N>& group) {
  store_whole(reinterpret_cast<Group<T, N>*>(to), group);
}
template <int N, class T>
__device__ __forceinline__ void load(const T* from, float (&to)[N]) {
  const Group<T, N> group = load_group<N>(from);
  for (int i = 0; i < N; ++i) to[i] = widen(group.at[i]);
}
template <int N, class T>
__device__ __forceinline__ void store(T* to, const float (&from)[N]) {
  Group<T, N> group;
  for (int i = 0; i < N; ++i) group.at[i] = narrow<T>(from[i]);
  store_group<N>(to, group);
}

/// scale * gamma of the columns from `column` on; gamma may be null.
template <int N>
__device__ __forceinline__ void load_factors(const float* gamma, float scale, int64_t column,
                                             float (&factors)[N]) {
  if (gamma != nullptr) load(gamma + column, factors);
  for (float& factor : factors) factor = gamma != nullptr ? factor * scale : scale;
}

/// A number of elements, as a type.
template <int N>
using Width = std::integral_constant<int, N>;

/// function(Width<N>) or function(Width<1>).
template <int N, class Function>
void with_width(bool wide, Function&& function) {
  if (wide)
    function(Width<N>{});
  else
    function(Width<1>{});
}
[[nodiscard]] inline bool aligned(std::initializer_list<const void*> addresses) {
  return std::all_of(addresses.begin(), addresses.end(),
                     [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; });
}

// ---- flat arrays

/// function(Width<N>, first element) for the thread's group of n elements; the rest goes by single elements.
template <int N, class Function>
__device__ __forceinline__ void for_group(int64_t n, Function&& function) {
  const int64_t groups = n / N, thread = global_thread();
  if (thread < groups) {
    function(Width<N>{}, thread * N);
  } else if constexpr (N > 1) {
    const int64_t element = groups * N + thread - groups;
    if (element < n) function(Width<1>{}, element);
  }
}
/// Its launch.
template <int N>
[[nodiscard]] LaunchShape group_shape(int64_t n) {
  return {{blocks_for(n / N + n % N, kBlock)}, {kBlock}};
}

// ---- rows, a warp for N x 32 columns of one

struct RowPlace {
  int64_t row, column;
};
template <int N>
__device__ __forceinline__ RowPlace row_place() {
  const int64_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  return {int64_t{blockIdx.x} * kBlockWarps + warp, (int64_t{blockIdx.y} * kWarp + lane) * N};
}
template <int N>
[[nodiscard]] LaunchShape row_shape(int64_t rows, int64_t columns) {
  return {{blocks_for(rows, kBlockWarps), blocks_for(columns, kWarp * N)}, {kBlock}};
}

// ---- rows whose sums are needed: a warp has one where each lane then has one group, else a block

/// The columns of one row for a thread: from `column` on by `stride`. A team's threads agree on `row`.
template <int N, bool kWarpRows>
struct RowTeam {
  static constexpr bool kOneGroup = kWarpRows;  ///< a thread's
  int64_t row, column, stride;
  __device__ __forceinline__ RowTeam()
      : row(kWarpRows ? int64_t{blockIdx.x} * kBlockWarps + threadIdx.x / kWarp : int64_t{blockIdx.x}),
        column((kWarpRows ? threadIdx.x % kWarp : threadIdx.x) * N),
        stride((kWarpRows ? kWarp : static_cast<int>(blockDim.x)) * N) {}
  /// Over the team, to each thread.
  template <class T>
  __device__ __forceinline__ T sum(T x) const {
    if constexpr (kWarpRows)
      return warp_sum(x);
    else
      return block_sum(x);
  }
};
/// Threads for rows of one block: a group each, at most kBlock of them.
template <int N>
[[nodiscard]] unsigned row_threads(int64_t columns) {
  return std::clamp<unsigned>(blocks_for(columns, int64_t{kWarp} * N), 1, kBlockWarps) * kWarp;
}
/// function(Width<N>, warp rows?, launch) for the team that fits.
template <int N, class Function>
void with_team(bool wide, int64_t rows, int64_t columns, Function&& function) {
  with_width<N>(wide, [&]<int kN>(Width<kN> width) {
    if (columns <= kWarp * kN)
      function(width, std::true_type{}, LaunchShape{{blocks_for(rows, kBlockWarps)}, {kBlock}});
    else
      function(width, std::false_type{},
               LaunchShape{{static_cast<unsigned>(rows)}, {row_threads<kN>(columns)}});
  });
}

// ---- sums over rows: a block adds a chunk of rows in kWarp x N columns, add_partials() the chunks

constexpr int64_t kMaxChunks = 256;
/// Rows of a chunk, for that many rows.
[[nodiscard]] inline int64_t chunk_rows(int64_t rows) {
  return std::max<int64_t>(4 * kBlockWarps, (rows + kMaxChunks - 1) / kMaxChunks);
}
template <int N>
[[nodiscard]] LaunchShape chunk_shape(int64_t rows, int64_t columns) {
  return {{blocks_for(rows, chunk_rows(rows)), blocks_for(columns, kWarp * N)}, {kBlock}};
}
template <int N>
struct ColumnTile {
  float of_warp[kBlockWarps][kWarp * N];
};
/// partials[chunk, column] = the sum over the block's warps, whose lanes hold N columns each.
template <int N>
__device__ __forceinline__ void store_column_sums(const float (&sums)[N], float* partials, int64_t columns) {
  ColumnTile<N>& tile = block_shared<ColumnTile<N>>();
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int i = 0; i < N; ++i) tile.of_warp[warp][lane * N + i] = sums[i];
  __syncthreads();
  const int64_t column = int64_t{blockIdx.y} * kWarp * N + threadIdx.x;
  if (threadIdx.x < kWarp * N && column < columns) {
    float total = 0;
    for (int w = 0; w < kBlockWarps; ++w) total += tile.of_warp[w][threadIdx.x];
    partials[int64_t{blockIdx.x} * columns + column] = total;
  }
}
/// function(row) for the warp's rows of the block's chunk.
template <class Function>
__device__ __forceinline__ void for_chunk_rows(int64_t rows, int64_t rows_per_chunk, Function&& function) {
  const int64_t first = int64_t{blockIdx.x} * rows_per_chunk;
  const int64_t end = first + rows_per_chunk < rows ? first + rows_per_chunk : rows;
#pragma unroll 4
  for (int64_t row = first + threadIdx.x / kWarp; row < end; row += kBlockWarps) function(row);
}

}  // namespace dino::cuda
