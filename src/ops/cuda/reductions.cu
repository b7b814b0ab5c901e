// SPDX-License-Identifier: Apache-2.0
// Sums and maxima of whole tensors and of columns. Each is made in two launches: blocks leave partial results
// in scratch memory, and a second kernel adds those in a fixed order. The launch shapes depend on the sizes
// alone, so results do not depend on the GPU.

#include <cmath>

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"
#include "ops/cuda/kernels.hpp"

namespace dino::cuda {
namespace {

// ---- of all elements

/// Blocks at most; each then goes over the elements in strides of all.
constexpr unsigned kMaxBlocks = 1024;

/// function(Width<N>, first element) for all groups of the thread.
template <int N, class Function>
__device__ __forceinline__ void for_all_groups(int64_t n, Function&& function) {
  const int64_t groups = n / N;
  for (int64_t group = global_thread(); group < groups; group += global_threads())
    function(Width<N>{}, group * N);
  if constexpr (N > 1) {
    const int64_t element = groups * N + global_thread();
    if (element < n) function(Width<1>{}, element);
  }
}
/// Its launch, for at least two groups a thread.
template <int N>
LaunchShape reduction_shape(int64_t n) {
  return {{std::min(blocks_for(n, 2 * N * kBlock), kMaxBlocks)}, {kBlock}};
}

enum class Term : uint8_t { plain, weighted, square };

/// partials f64 [blocks]; weight is read where it is asked for alone.
template <Term kTerm, int N>
__global__ void sum_kernel(const float* x, const float* weight, int64_t n, double* partials) {
  double sum = 0;
  for_all_groups<N>(n, [&](auto width, int64_t i) {
    constexpr int kN = decltype(width)::value;
    float in[kN];
    [[maybe_unused]] float factors[kN];
    load(x + i, in);
    if constexpr (kTerm == Term::weighted) load(weight + i, factors);
    for (int j = 0; j < kN; ++j) {
      const double value = in[j];
      if constexpr (kTerm == Term::plain)
        sum += value;
      else
        sum = fma(value, kTerm == Term::square ? value : double{factors[j]}, sum);
    }
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

/// One block: out += factor times the sum of the partials.
__global__ void add_sum_kernel(const double* partials, int64_t count, double factor, double* out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out += factor * sum;
}

/// out [blocks]: the largest of each block's elements.
template <int N>
__global__ void maximum_kernel(const float* x, int64_t n, float* out) {
  float top = -HUGE_VALF;
  for_all_groups<N>(n, [&](auto width, int64_t i) {
    float in[decltype(width)::value];
    load(x + i, in);
    for (const float value : in) top = value > top ? value : top;
  });
  top = block_max(top);
  if (threadIdx.x == 0) out[blockIdx.x] = top;
}

/// One block; x has an element for each unit of a model or so.
__global__ void all_finite_kernel(const double* x, int64_t n, float* flag) {
  int bad = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
    if (!(fabs(x[i]) < HUGE_VAL)) bad = 1;
  bad = block_max(bad);
  if (threadIdx.x == 0) *flag = bad != 0 ? 0.0f : 1.0f;
}

template <Term kTerm>
void add_terms(Stream& stream, ConstTensorView x, ConstTensorView weight, double factor, TensorView out) {
  const int64_t n = x.numel();
  if (n == 0) return;
  with_width<4>(aligned({x.data, weight.data}), [&]<int N>(Width<N>) {
    const LaunchShape shape = reduction_shape<N>(n);
    auto* const partials = static_cast<double*>(cuda_stream(stream).scratch(shape.grid.x * sizeof(double)));
    launch("sum", sum_kernel<kTerm, N>, shape, stream, pointer<float>(x), pointer<float>(weight), n,
           partials);
    add_sum(cuda_stream(stream), partials, shape.grid.x, factor, pointer<double>(out));
  });
}

// ---- of columns

template <class T, int N>
__global__ void column_sums_kernel(const T* x, int64_t rows, int64_t columns, int64_t rows_per_chunk,
                                   float* partials) {
  const int64_t column = row_place<N>().column;
  float sums[N] = {};
  if (column < columns)
    for_chunk_rows(rows, rows_per_chunk, [&](int64_t row) {
      float in[N];
      load(x + row * columns + column, in);
      for (int i = 0; i < N; ++i) sums[i] += in[i];
    });
  store_column_sums(sums, partials, columns);
}

constexpr int kAddWarps = 32;
struct AddTile {
  float of_warp[kAddWarps][kWarp];
};
/// A warp adds every kAddWarps-th chunk, one column a lane; the first warp adds the warps'.
__global__ void __launch_bounds__(kAddWarps* kWarp)
    add_partials_kernel(const float* partials, int64_t chunks, int64_t columns, int64_t split, float factor,
                        bool accumulate, float* out, float* second, float* third) {
  AddTile& tile = block_shared<AddTile>();
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t column = int64_t{blockIdx.x} * kWarp + lane;
  float sum = 0;
  if (column < columns)
    for (int64_t chunk = warp; chunk < chunks; chunk += kAddWarps) sum += partials[chunk * columns + column];
  tile.of_warp[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  sum = 0;
  for (int w = 0; w < kAddWarps; ++w) sum += tile.of_warp[w][lane];
  float* const whole = column < split ? out : column < 2 * split ? second : third;
  if (whole == nullptr) return;
  float* const to = whole + column % split;
  *to = accumulate ? fmaf(factor, sum, *to) : factor * sum;
}

}  // namespace

void add_sum(CudaStream& stream, const double* partials, int64_t count, double factor, double* out) {
  launch("add_sum", add_sum_kernel, {{1}, {kBlock}}, stream, partials, count, factor, out);
}

void column_sums(CudaStream& stream, ConstTensorView rows, float* out, bool accumulate) {
  const int64_t m = rows.dim(0), columns = rows.dim(1);
  const int64_t chunks = blocks_for(m, chunk_rows(m));
  auto* const partials =
      static_cast<float*>(stream.scratch(static_cast<size_t>(chunks * columns) * sizeof(float)));
  ops::with_cuda_act(rows.dtype, [&]<class T>(T) {
    with_width<8>(columns % 8 == 0 && aligned({rows.data}), [&]<int N>(Width<N>) {
      launch("column_sums", column_sums_kernel<T, N>, chunk_shape<N>(m, columns), stream, pointer<T>(rows), m,
             columns, chunk_rows(m), partials);
    });
  });
  add_partials(stream,
               {.data = partials,
                .chunks = chunks,
                .columns = columns,
                .split = columns,
                .factor = 1,
                .accumulate = accumulate},
               out);
}

void add_partials(CudaStream& stream, const Partials& partials, float* out, float* second, float* third) {
  launch("add_partials", add_partials_kernel, {{blocks_for(partials.columns, kWarp)}, {kAddWarps * kWarp}},
         stream, partials.data, partials.chunks, partials.columns, partials.split, partials.factor,
         partials.accumulate, out, second, third);
}

}  // namespace dino::cuda

namespace dino::ops {

using namespace cuda;

void CudaBackend::weighted_sum(Stream& stream, ConstTensorView x, ConstTensorView weight, double factor,
                               TensorView out) {
  check::same_f32({x});
  check::vector(weight, x.numel(), true);
  check::scalar(out, DType::f64);
  if (weight)
    add_terms<Term::weighted>(stream, x, weight, factor, out);
  else
    add_terms<Term::plain>(stream, x, {}, factor, out);
}

void CudaBackend::sum_of_squares(Stream& stream, ConstTensorView x, TensorView out) {
  check::same_f32({x});
  check::scalar(out, DType::f64);
  add_terms<Term::square>(stream, x, {}, 1, out);
}

void CudaBackend::maximum(Stream& stream, ConstTensorView x, TensorView out) {
  check::same_f32({x});
  check::scalar(out, DType::f32);
  const int64_t n = x.numel();
  with_width<4>(aligned({x.data}), [&]<int N>(Width<N>) {
    const LaunchShape shape = reduction_shape<N>(n);
    auto* const partials = static_cast<float*>(cuda_stream(stream).scratch(shape.grid.x * sizeof(float)));
    launch("maximum", maximum_kernel<N>, shape, stream, pointer<float>(x), n, partials);
    launch("maximum", maximum_kernel<1>, {{1}, {kBlock}}, stream, partials, shape.grid.x,
           pointer<float>(out));
  });
}

void CudaBackend::all_finite(Stream& stream, ConstTensorView x, TensorView flag) {
  DINO_CHECK(x.dtype == DType::f64, std::string("f64, not ") + name_of(x.dtype));
  check::scalar(flag, DType::f32);
  launch("all_finite", all_finite_kernel, {{1}, {kBlock}}, stream, pointer<double>(x), x.numel(),
         pointer<float>(flag));
}

}  // namespace dino::ops
