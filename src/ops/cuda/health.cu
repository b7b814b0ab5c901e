// SPDX-License-Identifier: Apache-2.0
// Statistics of targets and features that tell whether training collapses.

#include <cmath>

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"
#include "ops/cuda/kernels.hpp"

namespace dino::cuda {
namespace {

// ---- target_statistics

/// The first largest element of some columns; the column is kNowhere where none compares.
struct Top {
  float value;
  int column;
};
constexpr int kNowhere = 0x7fffffff;
__device__ __forceinline__ Top no_top() {
  return {-HUGE_VALF, kNowhere};
}
__device__ __forceinline__ void take(Top& top, Top other) {
  if (other.value > top.value || (other.value == top.value && other.column < top.column)) top = other;
}
/// Over the warp, to each lane.
__device__ __forceinline__ Top warp_top(Top top) {
  for (int step = kWarp / 2; step > 0; step /= 2)
    take(top, {__shfl_xor_sync(kAllLanes, top.value, step), __shfl_xor_sync(kAllLanes, top.column, step)});
  return top;
}

/// A block has a chunk of rows in kWarp x N columns, its tile, and leaves partial sums f32 [chunks, k] of the
/// columns, f64 [chunks, tiles] of the entropy, and the largest elements [rows, tiles]. counts <- 0.
template <int N>
__global__ void target_tiles_kernel(const float* targets, int64_t rows, int64_t k, int64_t rows_per_chunk,
                                    float* partials, double* entropies, float* top_values, int* top_columns,
                                    int* counts) {
  const int64_t column = row_place<N>().column;
  float sums[N] = {};
  double entropy = 0;
  for_chunk_rows(rows, rows_per_chunk, [&](int64_t row) {
    Top top = no_top();
    if (column < k) {
      float in[N];
      load(targets + row * k + column, in);
      float terms = 0;
      for (int i = 0; i < N; ++i) {
        sums[i] += in[i];
        if (in[i] > 0.0f) terms -= in[i] * logf(in[i]);
        take(top, {in[i], static_cast<int>(column) + i});
      }
      entropy += terms;
    }
    top = warp_top(top);
    if (threadIdx.x % kWarp == 0) {
      top_values[row * gridDim.y + blockIdx.y] = top.value;
      top_columns[row * gridDim.y + blockIdx.y] = top.column;
    }
  });
  store_column_sums(sums, partials, k);
  entropy = block_sum(entropy);
  if (threadIdx.x == 0) entropies[int64_t{blockIdx.x} * gridDim.y + blockIdx.y] = entropy;
  if (blockIdx.x == 0 && threadIdx.x < kWarp && column < k)
    for (int i = 0; i < N; ++i) counts[column + i] = 0;
}

/// A warp for each row.
__global__ void count_tops_kernel(const float* top_values, const int* top_columns, int64_t rows,
                                  int64_t tiles, int* counts) {
  const int64_t row = row_place<1>().row;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Top top = no_top();
  for (int64_t i = row * tiles + lane; i < (row + 1) * tiles; i += kWarp)
    take(top, {top_values[i], top_columns[i]});
  top = warp_top(top);
  if (lane == 0) atomicAdd(counts + (top.column == kNowhere ? 0 : top.column), 1);
}

__global__ void add_counts_kernel(const int* counts, float* out, int64_t k) {
  const int64_t i = global_thread();
  if (i < k) out[i] += static_cast<float>(counts[i]);
}

// ---- means

constexpr int kMeanColumns = 1024;

/// partials f64 [2, blocks]: of the entropy, and of how many columns are used.
__global__ void mean_target_kernel(const float* sums, double rows, int64_t k, double* partials) {
  double entropy = 0, used = 0;
  const int64_t first = int64_t{blockIdx.x} * kMeanColumns;
  for (int64_t i = first + threadIdx.x; i < first + kMeanColumns && i < k; i += kBlock) {
    const double p = double{sums[i]} / rows;
    if (p > 0) entropy -= p * log(p);
    if (sums[k + i] > 0.0f) used += 1;
  }
  entropy = block_sum(entropy);
  used = block_sum(used);
  if (threadIdx.x != 0) return;
  partials[blockIdx.x] = entropy;
  partials[gridDim.x + blockIdx.x] = used;
}

/// One block: *out = the sum of the partials / divisor.
__global__ void quotient_kernel(const double* partials, int64_t count, double divisor, double* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kBlock) sum += partials[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum / divisor;
}

constexpr int kStdWarps = 16;
struct StdTile {
  double sums[kStdWarps][kWarp], squares[kStdWarps][kWarp];
};
/// Blocks of kWarp columns, one a lane; the rows are shared out among the warps. partials f64 [blocks].
__global__ void __launch_bounds__(kStdWarps* kWarp)
    column_std_kernel(const float* x, int64_t rows, int64_t d, double* partials) {
  StdTile& tile = block_shared<StdTile>();
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  double sum = 0, squares = 0;
  if (column < d)
    for (int64_t row = warp; row < rows; row += kStdWarps) {
      const double value = x[row * d + column];
      sum += value;
      squares = fma(value, value, squares);
    }
  tile.sums[warp][lane] = sum;
  tile.squares[warp][lane] = squares;
  __syncthreads();
  if (warp != 0) return;
  sum = squares = 0;
  for (int w = 0; w < kStdWarps; ++w) {
    sum += tile.sums[w][lane];
    squares += tile.squares[w][lane];
  }
  const double count = static_cast<double>(rows), mean = sum / count;
  const double deviation = column < d ? sqrt(fmax(squares / count - mean * mean, 0.0)) : 0.0;
  const double total = warp_sum(deviation);
  if (lane == 0) partials[blockIdx.x] = total;
}

}  // namespace
}  // namespace dino::cuda

namespace dino::ops {

using namespace cuda;

void CudaBackend::target_statistics(Stream& stream, ConstTensorView targets, TensorView sums,
                                    TensorView entropy) {
  check::target_statistics(targets, sums, entropy);
  const int64_t rows = targets.dim(0), k = targets.dim(1);
  DINO_CHECK(k < kNowhere, "columns are numbered in 32 bits");
  if (rows == 0 || k == 0) return;
  CudaStream& queue = cuda_stream(stream);
  with_width<8>(k % 8 == 0 && aligned({targets.data}), [&]<int N>(Width<N>) {
    const LaunchShape shape = chunk_shape<N>(rows, k);
    const int64_t chunks = shape.grid.x, tiles = shape.grid.y;
    const int64_t words = chunks * k + 2 * rows * tiles + k;
    auto* const entropies = static_cast<double*>(
        queue.scratch(static_cast<size_t>(chunks * tiles) * sizeof(double) + static_cast<size_t>(words) * 4));
    auto* const partials = reinterpret_cast<float*>(entropies + chunks * tiles);
    float* const top_values = partials + chunks * k;
    int* const top_columns = reinterpret_cast<int*>(top_values + rows * tiles);
    int* const counts = top_columns + rows * tiles;
    launch("target_tiles", target_tiles_kernel<N>, shape, stream, pointer<float>(targets), rows, k,
           chunk_rows(rows), partials, entropies, top_values, top_columns, counts);
    launch("count_tops", count_tops_kernel, {{blocks_for(rows, kBlockWarps)}, {kBlock}}, stream, top_values,
           top_columns, rows, tiles, counts);
    add_partials(queue, {.data = partials, .chunks = chunks, .columns = k, .split = k}, pointer<float>(sums));
    launch("add_counts", add_counts_kernel, {{blocks_for(k, kBlock)}, {kBlock}}, stream, counts,
           pointer<float>(sums) + k, k);
    add_sum(queue, entropies, chunks * tiles, 1, pointer<double>(entropy));
  });
}

void CudaBackend::mean_target_statistics(Stream& stream, ConstTensorView sums, double rows, TensorView out) {
  check::mean_target_statistics(sums, out);
  const int64_t k = sums.numel() / 2;
  const unsigned blocks = blocks_for(k, kMeanColumns);
  auto* const partials = static_cast<double*>(cuda_stream(stream).scratch(2 * blocks * sizeof(double)));
  launch("mean_target", mean_target_kernel, {{blocks}, {kBlock}}, stream, pointer<float>(sums), rows, k,
         partials);
  launch("quotient", quotient_kernel, {{1}, {kBlock}}, stream, partials, blocks, 1, pointer<double>(out));
  launch("quotient", quotient_kernel, {{1}, {kBlock}}, stream, partials + blocks, blocks, k,
         pointer<double>(out) + 1);
}

void CudaBackend::mean_column_std(Stream& stream, ConstTensorView x, TensorView out) {
  check::matrix(x);
  check::scalar(out, DType::f64);
  const int64_t rows = x.dim(0), d = x.dim(1);
  const unsigned blocks = blocks_for(d, kWarp);
  auto* const partials = static_cast<double*>(cuda_stream(stream).scratch(blocks * sizeof(double)));
  launch("column_std", column_std_kernel, {{blocks}, {kStdWarps * kWarp}}, stream, pointer<float>(x), rows, d,
         partials);
  launch("quotient", quotient_kernel, {{1}, {kBlock}}, stream, partials, blocks, d, pointer<double>(out));
}

}  // namespace dino::ops
