// SPDX-License-Identifier: Apache-2.0
// What Sinkhorn's iterations do with a matrix of logits [rows, prototypes]: exponentials, sums over rows and
// columns, scaling. Sums of rows are in f32, in an order that depends on the shape alone.

#include <cmath>

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"
#include "ops/cuda/kernels.hpp"

namespace dino::cuda {
namespace {

/// kWidth neighbours of a row, 16 bytes or a single number.
template <int kWidth>
using Part = Group<float, kWidth>;

__global__ void exp_from_reference(float* x, const float* reference, double temperature, int64_t n) {
  const double shift = static_cast<double>(*reference);
  for (int64_t i = global_thread(); i < n; i += global_threads())
    x[i] = static_cast<float>(exp((static_cast<double>(x[i]) - shift) / temperature));
}

// ---- sums over rows and columns of a matrix [rows, k]

/// Rows of a matrix, 32 columns of each, on their way to the warp that adds them up.
struct RowTile {
  static constexpr int kRows = 64;
  float x[kRows][kWarp];
  float weight[kRows];
};
struct RowTiles {
  RowTile at[2];
};

/// One block for 32 columns: all threads fetch rows, the first warp adds them up one behind the other, a
/// column a lane, so that a sum does not depend on how rows are split over calls.
template <int kWidth>
__global__ void __launch_bounds__(kBlock)
    add_rows_in_order(const float* x, const float* weight, int64_t rows, int k, float* out) {
  constexpr int kLanes = kWarp / kWidth;  // threads of a row
  constexpr int kRowsAtOnce = kBlock / kLanes;
  constexpr int kFetches = RowTile::kRows / kRowsAtOnce;
  RowTiles& tiles = block_shared<RowTiles>();
  const int thread = static_cast<int>(threadIdx.x);
  const int begin = static_cast<int>(blockIdx.x) * kWarp;
  const int row_of_thread = thread / kLanes, column_of_thread = thread % kLanes * kWidth;
  const bool inside = begin + column_of_thread < k;
  Part<kWidth> fetched[kFetches];
  float fetched_weight = 1;
  const auto fetch = [&](int64_t first) {
#pragma unroll
    for (int j = 0; j < kFetches; ++j) {
      const int64_t row = first + j * kRowsAtOnce + row_of_thread;
      fetched[j] = Part<kWidth>{};
      if (inside && row < rows) fetched[j] = load_group<kWidth>(x + row * k + begin + column_of_thread);
    }
    if (weight != nullptr && thread < RowTile::kRows && first + thread < rows)
      fetched_weight = weight[first + thread];
  };
  const bool adds = thread < kWarp && begin + thread < k;
  float sum = adds ? out[begin + thread] : 0.0f;
  fetch(0);
  int buffer = 0;
  for (int64_t first = 0; first < rows; first += RowTile::kRows) {
    RowTile& tile = tiles.at[buffer];
#pragma unroll
    for (int j = 0; j < kFetches; ++j)
      store_group(&tile.x[j * kRowsAtOnce + row_of_thread][column_of_thread], fetched[j]);
    if (thread < RowTile::kRows) tile.weight[thread] = fetched_weight;
    // The one barrier is enough: who fills this tile again has met the adding warp at the next tile's.
    __syncthreads();
    fetch(first + RowTile::kRows);
    if (thread < kWarp) {
      const int64_t left = rows - first;
      if (left >= RowTile::kRows) {
#pragma unroll 16
        for (int r = 0; r < RowTile::kRows; ++r) sum = fmaf(tile.x[r][thread], tile.weight[r], sum);
      } else {
        for (int r = 0; r < static_cast<int>(left); ++r) sum = fmaf(tile.x[r][thread], tile.weight[r], sum);
      }
    }
    buffer ^= 1;
  }
  if (adds) out[begin + thread] = sum;
}

constexpr int kSegment = 4096;     ///< columns that a block of row_products adds up
constexpr int kRowsOfProduct = 2;  ///< rows of such a block, which share the vector's numbers

/// partial[r, s] = sum over segment s of x[r, k] u[k]: the same for any number of rows.
template <int kWidth>
__global__ void __launch_bounds__(kBlock)
    row_products(const float* x, const float* u, int64_t rows, int k, int segments, float* partial) {
  constexpr int kSteps = kSegment / (kBlock * kWidth);
  constexpr int kBatch = kSteps < 4 ? kSteps : 4;
  const int segment = static_cast<int>(blockIdx.x % segments);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x / segments) * kRowsOfProduct;
  const bool second = first_row + 1 < rows;
  const float* upper = x + first_row * k;
  const float* lower = second ? upper + k : upper;
  const int begin = segment * kSegment + static_cast<int>(threadIdx.x) * kWidth;
  float sums[kRowsOfProduct] = {};
  for (int step = 0; step < kSteps; step += kBatch) {
    Part<kWidth> a[kBatch] = {}, b[kBatch] = {}, c[kBatch] = {};
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = begin + (step + j) * kBlock * kWidth;
      if (i >= k) break;
      a[j] = load_group<kWidth>(upper + i);
      b[j] = load_group<kWidth>(lower + i);
      c[j] = load_group<kWidth>(u + i);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      for (int l = 0; l < kWidth; ++l) {
        sums[0] = fmaf(a[j].at[l], c[j].at[l], sums[0]);
        sums[1] = fmaf(b[j].at[l], c[j].at[l], sums[1]);
      }
  }
  for (int r = 0; r < kRowsOfProduct; ++r) {
    const float sum = block_sum(sums[r]);
    if (threadIdx.x == 0 && first_row + r < rows) partial[(first_row + r) * segments + segment] = sum;
  }
}

__global__ void add_segments(const float* partial, int64_t rows, int segments, float* out) {
  const int64_t row = global_thread();
  if (row >= rows) return;
  float sum = 0;
  for (int s = 0; s < segments; ++s) sum += partial[row * segments + s];
  out[row] = sum;
}

constexpr int kRowsOfScale = 8;

/// A block scales kBlock * kWidth columns of kRowsOfScale rows.
template <int kWidth>
__global__ void __launch_bounds__(kBlock)
    scale_matrix(float* x, const float* v, const float* u, int64_t rows, int k, int across) {
  const int column =
      (static_cast<int>(blockIdx.x % across) * kBlock + static_cast<int>(threadIdx.x)) * kWidth;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x / across) * kRowsOfScale;
  if (column >= k) return;
  const Part<kWidth> of_column = load_group<kWidth>(u + column);
  float* at = x + first_row * k + column;
  Part<kWidth> a[kRowsOfScale];
#pragma unroll
  for (int r = 0; r < kRowsOfScale; ++r)
    if (first_row + r < rows) a[r] = load_group<kWidth>(at + static_cast<int64_t>(r) * k);
#pragma unroll
  for (int r = 0; r < kRowsOfScale; ++r) {
    if (first_row + r >= rows) break;
    const float of_row = v[first_row + r];
    for (int l = 0; l < kWidth; ++l) a[r].at[l] = a[r].at[l] * of_row * of_column.at[l];
    store_group(at + static_cast<int64_t>(r) * k, a[r]);
  }
}

}  // namespace
}  // namespace dino::cuda

namespace dino::ops {
namespace {

using cuda::blocks_for;
using cuda::columns_of;
using cuda::pointer;

/// Calls function(Width<4>) where all rows of k floats can be read 16 bytes at a time, else with Width<1>.
template <class Function>
void with_row_width(int k, std::initializer_list<const void*> rows, Function&& function) {
  cuda::with_width<4>(k % 4 == 0 && cuda::aligned(rows), std::forward<Function>(function));
}

}  // namespace

void CudaBackend::exp_relative(Stream& stream, TensorView x, ConstTensorView reference, float temperature) {
  check::same_f32({x});
  check::scalar(reference, DType::f32);
  const unsigned blocks = std::min(blocks_for(x.numel(), cuda::kBlock), 1024u);
  cuda::launch("exp_relative", cuda::exp_from_reference, {{blocks}, {cuda::kBlock}}, stream,
               pointer<float>(x), pointer<float>(reference), static_cast<double>(temperature), x.numel());
}

void CudaBackend::weighted_column_sums(Stream& stream, ConstTensorView x, ConstTensorView weight,
                                       TensorView out) {
  check::same_f32({x});
  const int k = columns_of(x);
  check::vector(weight, x.dim(0), true);
  check::vector(out, k, false);
  if (x.dim(0) == 0) return;
  const float* in = pointer<float>(x);
  with_row_width(k, {in}, [&]<int kWidth>(cuda::Width<kWidth>) {
    cuda::launch("weighted_column_sums", cuda::add_rows_in_order<kWidth>,
                 {{blocks_for(k, cuda::kWarp)}, {cuda::kBlock}}, stream, in, pointer<float>(weight), x.dim(0),
                 k, pointer<float>(out));
  });
}

void CudaBackend::matrix_vector(Stream& stream, ConstTensorView x, ConstTensorView u, TensorView out) {
  check::same_f32({x});
  const int64_t rows = x.dim(0);
  const int k = columns_of(x);
  check::vector(u, k, false);
  check::vector(out, rows, false);
  if (rows == 0) return;
  const unsigned segments = std::max(blocks_for(k, cuda::kSegment), 1u);
  const float* in = pointer<float>(x);
  const float* vector = pointer<float>(u);
  float* to = pointer<float>(out);
  const size_t partial_bytes = static_cast<size_t>(rows) * segments * sizeof(float);
  float* partial = segments == 1 ? to : static_cast<float*>(cuda::cuda_stream(stream).scratch(partial_bytes));
  with_row_width(k, {in, vector}, [&]<int kWidth>(cuda::Width<kWidth>) {
    cuda::launch("matrix_vector", cuda::row_products<kWidth>,
                 {{blocks_for(rows, cuda::kRowsOfProduct) * segments}, {cuda::kBlock}}, stream, in, vector,
                 rows, k, segments, partial);
  });
  if (segments == 1) return;
  cuda::launch("matrix_vector sums", cuda::add_segments, {{blocks_for(rows, cuda::kBlock)}, {cuda::kBlock}},
               stream, partial, rows, segments, to);
}

void CudaBackend::scale_rows_columns(Stream& stream, TensorView x, ConstTensorView v, ConstTensorView u) {
  check::same_f32({x});
  const int64_t rows = x.dim(0);
  const int k = columns_of(x);
  check::vector(v, rows, false);
  check::vector(u, k, false);
  float* data = pointer<float>(x);
  const float* columns = pointer<float>(u);
  with_row_width(k, {data, columns}, [&]<int kWidth>(cuda::Width<kWidth>) {
    const unsigned across = blocks_for(k, int64_t{cuda::kBlock} * kWidth);
    cuda::launch("scale_rows_columns", cuda::scale_matrix<kWidth>,
                 {{across * blocks_for(rows, cuda::kRowsOfScale)}, {cuda::kBlock}}, stream, data,
                 pointer<float>(v), columns, rows, k, across);
  });
}

}  // namespace dino::ops
