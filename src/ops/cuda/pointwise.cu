// SPDX-License-Identifier: Apache-2.0
// What is done element by element and row by row: a GPU moves each byte once and computes beside it.

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"
#include "ops/cuda/kernels.hpp"

namespace dino::cuda {
namespace {

// ---- elements

template <class From, class To, int N>
__global__ void convert_kernel(const From* x, To* y, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    constexpr int kN = decltype(width)::value;
    if constexpr (std::is_same_v<From, To>) {
      store_group<kN>(y + i, load_group<kN>(x + i));
    } else {
      float values[kN];
      load(x + i, values);
      store(y + i, values);
    }
  });
}

/// The normal distribution at x: `below` = Phi(x) and `density` = phi(x). Phi(-t) = exp(-t^2/2) s R(s),
/// s = 1/(1 + 0.35 t), as ops/cpu/vector.hpp has it: accurate relative to Phi also in the lower tail, one
/// exponential for both, and no branch. A GPU has time for about 34 instructions per element here.
struct Normal {
  float below, density;
};
__device__ __forceinline__ Normal normal_of(float x) {
  const float t = fabsf(x);
  const float s = __fdividef(1.0f, fmaf(0.35f, t, 1.0f));
  float r = -0.02977205440402031f;
  r = fmaf(r, s, 0.14694713056087494f);
  r = fmaf(r, s, -0.2616783380508423f);
  r = fmaf(r, s, 0.1657264232635498f);
  r = fmaf(r, s, -0.027398675680160522f);
  r = fmaf(r, s, 0.10720832645893097f);
  r = fmaf(r, s, 0.11943741142749786f);
  r = fmaf(r, s, 0.13991080224514008f);
  r = fmaf(r, s, 0.13961894810199738f);
  const float e = expf(-0.5f * x * x);
  const float tail = e * s * r;
  return {x > 0.0f ? 1.0f - tail : tail, e * 0.3989422804014327f};
}
__device__ __forceinline__ float sigmoid_of(float x) {
  return __fdividef(1.0f, 1.0f + expf(-x));
}

template <class From, class To, int N>
__global__ void quick_gelu_kernel(const From* pre, To* y, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    float values[decltype(width)::value];
    load(pre + i, values);
    for (float& x : values) x *= sigmoid_of(1.702f * x);
    store(y + i, values);
  });
}

template <class T, int N>
__global__ void quick_gelu_backward_kernel(const T* dy, const T* pre, T* dx, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    constexpr int kN = decltype(width)::value;
    float gradient[kN], in[kN];
    load(dy + i, gradient);
    load(pre + i, in);
    for (int j = 0; j < kN; ++j) {
      const float x = 1.702f * in[j], s = sigmoid_of(x);
      gradient[j] *= s * fmaf(x, 1.0f - s, 1.0f);
    }
    store(dx + i, gradient);
  });
}

template <class From, class To, int N>
__global__ void gelu_kernel(const From* pre, To* y, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    float values[decltype(width)::value];
    load(pre + i, values);
    for (float& x : values) x *= normal_of(x).below;
    store(y + i, values);
  });
}

/// gradient becomes that of `pre`.
template <class T, int N>
__device__ __forceinline__ void gelu_gradient(const T* dy, const T* pre, float (&gradient)[N]) {
  float in[N];
  load(dy, gradient);
  load(pre, in);
  for (int j = 0; j < N; ++j) {
    const Normal normal = normal_of(in[j]);
    gradient[j] *= fmaf(in[j], normal.density, normal.below);
  }
}

template <class T, int N>
__global__ void gelu_backward_kernel(const T* dy, const T* pre, T* dx, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    float gradient[decltype(width)::value];
    gelu_gradient(dy + i, pre + i, gradient);
    store(dx + i, gradient);
  });
}

/// The same, and the column sums of a chunk of rows; they are of what dx holds, rounded.
template <class T, int N>
__global__ void gelu_backward_sums_kernel(const T* dy, const T* pre, T* dx, int64_t rows, int64_t d,
                                          int64_t rows_per_chunk, float* partials) {
  const int64_t column = row_place<N>().column;
  float sums[N] = {};
  if (column < d)
    for_chunk_rows(rows, rows_per_chunk, [&](int64_t row) {
      float gradient[N];
      gelu_gradient(dy + row * d + column, pre + row * d + column, gradient);
      store(dx + row * d + column, gradient);
      for (int j = 0; j < N; ++j) sums[j] += widen(narrow<T>(gradient[j]));
    });
  store_column_sums(sums, partials, d);
}

template <int N>
__global__ void axpy_kernel(float a, const float* x, float* y, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    constexpr int kN = decltype(width)::value;
    float in[kN], out[kN];
    load(x + i, in);
    load(y + i, out);
    for (int j = 0; j < kN; ++j) out[j] = fmaf(a, in[j], out[j]);
    store(y + i, out);
  });
}

template <int N>
__global__ void scale_kernel(float a, const float* x, float* y, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    float values[decltype(width)::value];
    load(x + i, values);
    for (float& value : values) value *= a;
    store(y + i, values);
  });
}

template <int N>
__global__ void reciprocal_kernel(const float* x, float of_zero, float* y, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    float values[decltype(width)::value];
    load(x + i, values);
    for (float& value : values) value = value == 0.0f ? of_zero : 1.0f / value;
    store(y + i, values);
  });
}

template <int N>
__global__ void relu_kernel(const float* x, float* y, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    float values[decltype(width)::value];
    load(x + i, values);
    for (float& value : values) value = value < 0.0f ? 0.0f : value;
    store(y + i, values);
  });
}

template <int N>
__global__ void relu_backward_kernel(const float* dy, const float* y, float* dx, int64_t n) {
  for_group<N>(n, [&](auto width, int64_t i) {
    constexpr int kN = decltype(width)::value;
    float gradient[kN], out[kN];
    load(dy + i, gradient);
    load(y + i, out);
    for (int j = 0; j < kN; ++j) gradient[j] = out[j] > 0.0f ? gradient[j] : 0.0f;
    store(dx + i, gradient);
  });
}

// ---- rows

template <class T, int N>
__global__ void swiglu_kernel(const T* x, T* y, int64_t rows, int64_t h) {
  const auto [row, column] = row_place<N>();
  if (row >= rows || column >= h) return;
  float gate[N], in[N];
  load(x + row * 2 * h + column, gate);
  load(x + row * 2 * h + h + column, in);
  for (int i = 0; i < N; ++i) in[i] *= gate[i] * sigmoid_of(gate[i]);
  store(y + row * h + column, in);
}

template <class T, int N>
__global__ void swiglu_backward_kernel(const T* dy, const T* x, T* dx, int64_t rows, int64_t h) {
  const auto [row, column] = row_place<N>();
  if (row >= rows || column >= h) return;
  float gradient[N], gate[N], in[N];
  load(dy + row * h + column, gradient);
  load(x + row * 2 * h + column, gate);
  load(x + row * 2 * h + h + column, in);
  for (int i = 0; i < N; ++i) {
    const float sigmoid = sigmoid_of(gate[i]);
    const float to_gate = gradient[i] * in[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
    in[i] = gradient[i] * gate[i] * sigmoid;
    gate[i] = to_gate;
  }
  store(dx + row * 2 * h + column, gate);
  store(dx + row * 2 * h + h + column, in);
}

template <class T, int N>
__global__ void scaled_index_add_kernel(float* out, const T* branch, const float* gamma, float scale,
                                        const int64_t* rows, int64_t count, int64_t d) {
  const auto [row, column] = row_place<N>();
  if (row >= count || column >= d) return;
  float* const to = out + (rows != nullptr ? rows[row] : row) * d + column;
  float factors[N], in[N], sums[N];
  load_factors(gamma, scale, column, factors);
  load(branch + row * d + column, in);
  load(to, sums);
  for (int i = 0; i < N; ++i) sums[i] = fmaf(factors[i], in[i], sums[i]);
  store(to, sums);
}

/// partials f32 [chunks, d]: of dgamma, without the scale; may be null.
template <class T, int N>
__global__ void scaled_index_add_backward_kernel(const float* dout, const T* branch, const float* gamma,
                                                 float scale, const int64_t* rows, int64_t count, int64_t d,
                                                 int64_t rows_per_chunk, T* dbranch, float* partials) {
  const int64_t column = row_place<N>().column;
  float sums[N] = {};
  if (column < d) {
    float factors[N];
    load_factors(gamma, scale, column, factors);
    for_chunk_rows(count, rows_per_chunk, [&](int64_t row) {
      float gradient[N], in[N];
      load(dout + (rows != nullptr ? rows[row] : row) * d + column, gradient);
      if (partials != nullptr) {
        load(branch + row * d + column, in);
        for (int i = 0; i < N; ++i) sums[i] = fmaf(gradient[i], in[i], sums[i]);
      }
      for (int i = 0; i < N; ++i) gradient[i] *= factors[i];
      store(dbranch + row * d + column, gradient);
    });
  }
  if (partials != nullptr) store_column_sums(sums, partials, d);
}

template <class From, class To, int N>
__global__ void gather_rows_kernel(const From* x, const int64_t* rows, To* out, int64_t count, int64_t d) {
  const auto [row, column] = row_place<N>();
  if (row >= count || column >= d) return;
  const From* const from = x + rows[row] * d + column;
  To* const to = out + row * d + column;
  if constexpr (std::is_same_v<From, To>) {
    store_group<N>(to, load_group<N>(from));
  } else {
    float values[N];
    load(from, values);
    store(to, values);
  }
}

template <class T, int N>
__global__ void zero_rows_kernel(T* x, const int64_t* rows, int64_t count, int64_t d) {
  const auto [row, column] = row_place<N>();
  if (row >= count || column >= d) return;
  constexpr float kZeros[N] = {};
  store(x + rows[row] * d + column, kZeros);
}

template <int N>
__global__ void sparse_rows_kernel(const int64_t* starts, const int64_t* columns, const float* weights,
                                   const float* x, float* out, bool accumulate, int64_t rows, int64_t d) {
  const auto [row, column] = row_place<N>();
  if (row >= rows || column >= d) return;
  float sums[N] = {};
  if (accumulate) load(out + row * d + column, sums);
  const int64_t end = starts[row + 1];
  for (int64_t entry = starts[row]; entry < end; ++entry) {
    float in[N];
    load(x + columns[entry] * d + column, in);
    for (int i = 0; i < N; ++i) sums[i] = fmaf(weights[entry], in[i], sums[i]);
  }
  store(out + row * d + column, sums);
}

// ---- scatter_add_rows: the first warp whose row goes to a target adds all that go there, in their order

/// Of a row of the output: the first and the number of the rows that are added to it.
__global__ void clear_targets_kernel(int* first, int* count, int64_t targets) {
  const int64_t i = global_thread();
  if (i >= targets) return;
  first[i] = 0x7fffffff;
  count[i] = 0;
}
__global__ void count_targets_kernel(const int64_t* rows, int64_t n, int* first, int* count) {
  const int64_t i = global_thread();
  if (i >= n) return;
  atomicMin(first + rows[i], static_cast<int>(i));
  atomicAdd(count + rows[i], 1);
}

template <class T, int N>
__global__ void scatter_add_rows_kernel(const T* x, const int64_t* rows, const int* first, const int* count,
                                        float* out, int64_t n, int64_t d) {
  constexpr int kAhead = 4;  // warps' worths of the list in flight
  const auto [row, column] = row_place<N>();
  if (row >= n) return;
  const int64_t target = rows[row];
  if (first[target] != row) return;
  const bool inside = column < d;
  float* const to = out + target * d + column;
  float sums[N] = {}, in[N] = {};
  const auto add = [&](int64_t i) {
    if (!inside) return;
    load(x + i * d + column, in);
    for (int j = 0; j < N; ++j) sums[j] += in[j];
  };
  if (inside) load(to, sums);
  add(row);
  int left = count[target] - 1;
  for (int64_t base = row + 1; left > 0; base += kAhead * kWarp) {
    bool matches[kAhead];
    for (int a = 0; a < kAhead; ++a) {
      const int64_t i = base + a * kWarp + threadIdx.x % kWarp;
      matches[a] = i < n && rows[i] == target;
    }
    for (int a = 0; a < kAhead; ++a) {
      for (unsigned lanes = __ballot_sync(kAllLanes, matches[a]); lanes != 0; lanes &= lanes - 1, --left)
        add(base + a * kWarp + __ffs(static_cast<int>(lanes)) - 1);
    }
  }
  if (inside) store(to, sums);
}

/// Widest groups of these rows of d elements.
bool wide_rows(int64_t d, std::initializer_list<const void*> addresses) {
  return d % 8 == 0 && aligned(addresses);
}

}  // namespace

void convert_elements(CudaStream& stream, ConstTensorView x, TensorView y) {
  ops::with_cuda_act(x.dtype, [&]<class From>(From) {
    ops::with_cuda_act(y.dtype, [&]<class To>(To) {
      with_width<8>(aligned({x.data, y.data}), [&]<int N>(Width<N>) {
        launch("convert", convert_kernel<From, To, N>, group_shape<N>(x.numel()), stream, pointer<From>(x),
               pointer<To>(y), x.numel());
      });
    });
  });
}

void activate(CudaStream& stream, ops::Activation activation, ConstTensorView pre, TensorView y) {
  const bool exact = activation == ops::Activation::gelu;
  ops::with_cuda_act(pre.dtype, [&]<class From>(From) {
    ops::with_cuda_act(y.dtype, [&]<class To>(To) {
      with_width<8>(aligned({pre.data, y.data}), [&]<int N>(Width<N>) {
        launch(exact ? "gelu" : "quick_gelu",
               exact ? gelu_kernel<From, To, N> : quick_gelu_kernel<From, To, N>, group_shape<N>(y.numel()),
               stream, pointer<From>(pre), pointer<To>(y), y.numel());
      });
    });
  });
}

}  // namespace dino::cuda

namespace dino::ops {

using namespace cuda;

namespace {

void gelu_backward_sums(CudaStream& stream, ConstTensorView dy, ConstTensorView pre, TensorView dx,
                        TensorView db) {
  const int64_t rows = dx.dim(0), d = dx.dim(1);
  const int64_t chunks = blocks_for(rows, chunk_rows(rows));
  auto* const partials = static_cast<float*>(stream.scratch(static_cast<size_t>(chunks * d) * sizeof(float)));
  with_cuda_act(dy.dtype, [&]<class T>(T) {
    with_width<8>(wide_rows(d, {dy.data, pre.data, dx.data}), [&]<int N>(Width<N>) {
      launch("gelu_backward", gelu_backward_sums_kernel<T, N>, chunk_shape<N>(rows, d), stream,
             pointer<T>(dy), pointer<T>(pre), pointer<T>(dx), rows, d, chunk_rows(rows), partials);
    });
  });
  add_partials(stream, {.data = partials, .chunks = chunks, .columns = d, .split = d}, pointer<float>(db));
}

}  // namespace

void CudaBackend::gelu_backward(Stream& stream, ConstTensorView dy, ConstTensorView pre, TensorView dx,
                                TensorView db) {
  check::gelu_backward(dy, pre, dx, db);
  if (db) {
    gelu_backward_sums(cuda_stream(stream), dy, pre, dx, db);
    return;
  }
  with_cuda_act(dy.dtype, [&]<class T>(T) {
    with_width<8>(aligned({dy.data, pre.data, dx.data}), [&]<int N>(Width<N>) {
      launch("gelu_backward", gelu_backward_kernel<T, N>, group_shape<N>(dy.numel()), stream, pointer<T>(dy),
             pointer<T>(pre), pointer<T>(dx), dy.numel());
    });
  });
}

void CudaBackend::quick_gelu_backward(Stream& stream, ConstTensorView dy, ConstTensorView pre,
                                      TensorView dx) {
  check::same_act({dy, pre, dx});
  with_cuda_act(dy.dtype, [&]<class T>(T) {
    with_width<8>(aligned({dy.data, pre.data, dx.data}), [&]<int N>(Width<N>) {
      launch("quick_gelu_backward", quick_gelu_backward_kernel<T, N>, group_shape<N>(dy.numel()), stream,
             pointer<T>(dy), pointer<T>(pre), pointer<T>(dx), dy.numel());
    });
  });
}

void CudaBackend::swiglu(Stream& stream, ConstTensorView x, TensorView y) {
  check::swiglu(x, y);
  const int64_t rows = y.dim(0), h = y.dim(1);
  with_cuda_act(x.dtype, [&]<class T>(T) {
    with_width<8>(wide_rows(h, {x.data, y.data}), [&]<int N>(Width<N>) {
      launch("swiglu", swiglu_kernel<T, N>, row_shape<N>(rows, h), stream, pointer<T>(x), pointer<T>(y), rows,
             h);
    });
  });
}

void CudaBackend::swiglu_backward(Stream& stream, ConstTensorView dy, ConstTensorView x, TensorView dx) {
  check::swiglu(x, dy);
  check::same_act({x, dx});
  const int64_t rows = dy.dim(0), h = dy.dim(1);
  with_cuda_act(dy.dtype, [&]<class T>(T) {
    with_width<8>(wide_rows(h, {dy.data, x.data, dx.data}), [&]<int N>(Width<N>) {
      launch("swiglu_backward", swiglu_backward_kernel<T, N>, row_shape<N>(rows, h), stream, pointer<T>(dy),
             pointer<T>(x), pointer<T>(dx), rows, h);
    });
  });
}

void CudaBackend::scaled_index_add(Stream& stream, TensorView out, ConstTensorView branch,
                                   ConstTensorView gamma, float scale, ConstTensorView rows) {
  check::indexed_rows(out, branch, rows, true);
  check::vector(gamma, branch.dim(1), true);
  const int64_t count = branch.dim(0), d = branch.dim(1);
  with_cuda_act(branch.dtype, [&]<class T>(T) {
    with_width<8>(wide_rows(d, {out.data, branch.data, gamma.data}), [&]<int N>(Width<N>) {
      launch("scaled_index_add", scaled_index_add_kernel<T, N>, row_shape<N>(count, d), stream,
             pointer<float>(out), pointer<T>(branch), pointer<float>(gamma), scale, pointer<int64_t>(rows),
             count, d);
    });
  });
}

void CudaBackend::scaled_index_add_backward(Stream& stream, ConstTensorView dout, ConstTensorView branch,
                                            ConstTensorView gamma, float scale, ConstTensorView rows,
                                            TensorView dbranch, TensorView dgamma) {
  check::indexed_rows(dout, branch, rows, true);
  check::same_act({branch, dbranch});
  check::vector(gamma, branch.dim(1), true);
  check::vector(dgamma, branch.dim(1), true);
  const int64_t count = branch.dim(0), d = branch.dim(1);
  const int64_t chunks = blocks_for(count, chunk_rows(count));
  CudaStream& queue = cuda_stream(stream);
  auto* const partials =
      dgamma ? static_cast<float*>(queue.scratch(static_cast<size_t>(chunks * d) * sizeof(float))) : nullptr;
  with_cuda_act(branch.dtype, [&]<class T>(T) {
    with_width<8>(wide_rows(d, {dout.data, branch.data, gamma.data, dbranch.data}), [&]<int N>(Width<N>) {
      launch("scaled_index_add_backward", scaled_index_add_backward_kernel<T, N>, chunk_shape<N>(count, d),
             stream, pointer<float>(dout), pointer<T>(branch), pointer<float>(gamma), scale,
             pointer<int64_t>(rows), count, d, chunk_rows(count), pointer<T>(dbranch), partials);
    });
  });
  if (dgamma)
    add_partials(queue, {.data = partials, .chunks = chunks, .columns = d, .split = d, .factor = scale},
                 pointer<float>(dgamma));
}

void CudaBackend::gather_rows(Stream& stream, ConstTensorView x, ConstTensorView rows, TensorView out) {
  check::indexed_rows(x, out, rows, false);
  const int64_t count = out.dim(0), d = x.dim(1);
  with_cuda_act(x.dtype, [&]<class From>(From) {
    with_cuda_act(out.dtype, [&]<class To>(To) {
      with_width<8>(wide_rows(d, {x.data, out.data}), [&]<int N>(Width<N>) {
        launch("gather_rows", gather_rows_kernel<From, To, N>, row_shape<N>(count, d), stream,
               pointer<From>(x), pointer<int64_t>(rows), pointer<To>(out), count, d);
      });
    });
  });
}

void CudaBackend::scatter_add_rows(Stream& stream, ConstTensorView x, ConstTensorView rows, TensorView out) {
  check::indexed_rows(out, x, rows, false);
  const int64_t n = x.dim(0), d = x.dim(1), targets = out.dim(0);
  DINO_CHECK(n < INT32_MAX, "rows are numbered in 32 bits");
  if (x.numel() == 0) return;
  auto* const first =
      static_cast<int*>(cuda_stream(stream).scratch(static_cast<size_t>(2 * targets) * sizeof(int)));
  int* const count = first + targets;
  const auto* const list = pointer<int64_t>(rows);
  launch("clear_targets", clear_targets_kernel, {{blocks_for(targets, kBlock)}, {kBlock}}, stream, first,
         count, targets);
  launch("count_targets", count_targets_kernel, {{blocks_for(n, kBlock)}, {kBlock}}, stream, list, n, first,
         count);
  with_cuda_act(x.dtype, [&]<class T>(T) {
    with_width<8>(wide_rows(d, {x.data, out.data}), [&]<int N>(Width<N>) {
      launch("scatter_add_rows", scatter_add_rows_kernel<T, N>, row_shape<N>(n, d), stream, pointer<T>(x),
             list, first, count, pointer<float>(out), n, d);
    });
  });
}

void CudaBackend::zero_rows(Stream& stream, TensorView x, ConstTensorView rows) {
  check::zero_rows(x, rows);
  const int64_t count = rows.numel(), d = x.dim(1);
  with_cuda_act(x.dtype, [&]<class T>(T) {
    with_width<8>(wide_rows(d, {x.data}), [&]<int N>(Width<N>) {
      launch("zero_rows", zero_rows_kernel<T, N>, row_shape<N>(count, d), stream, pointer<T>(x),
             pointer<int64_t>(rows), count, d);
    });
  });
}

void CudaBackend::sparse_rows(Stream& stream, const SparseRows& matrix, ConstTensorView x, TensorView out,
                              bool accumulate) {
  check::sparse_rows(matrix, x, out);
  const int64_t rows = out.dim(0), d = out.dim(1);
  with_width<4>(d % 4 == 0 && aligned({x.data, out.data}), [&]<int N>(Width<N>) {
    launch("sparse_rows", sparse_rows_kernel<N>, row_shape<N>(rows, d), stream,
           pointer<int64_t>(matrix.starts), pointer<int64_t>(matrix.columns), pointer<float>(matrix.weights),
           pointer<float>(x), pointer<float>(out), accumulate, rows, d);
  });
}

void CudaBackend::convert(Stream& stream, ConstTensorView x, TensorView y) {
  check::same_act({x, y});
  convert_elements(cuda_stream(stream), x, y);
}

void CudaBackend::axpy(Stream& stream, float a, ConstTensorView x, TensorView y) {
  check::same_f32({x, y});
  with_width<4>(aligned({x.data, y.data}), [&]<int N>(Width<N>) {
    launch("axpy", axpy_kernel<N>, group_shape<N>(x.numel()), stream, a, pointer<float>(x), pointer<float>(y),
           x.numel());
  });
}

void CudaBackend::scale(Stream& stream, float a, ConstTensorView x, TensorView y) {
  check::same_f32({x, y});
  with_width<4>(aligned({x.data, y.data}), [&]<int N>(Width<N>) {
    launch("scale", scale_kernel<N>, group_shape<N>(x.numel()), stream, a, pointer<float>(x),
           pointer<float>(y), x.numel());
  });
}

void CudaBackend::reciprocal(Stream& stream, ConstTensorView x, float of_zero, TensorView y) {
  check::same_f32({x, y});
  with_width<4>(aligned({x.data, y.data}), [&]<int N>(Width<N>) {
    launch("reciprocal", reciprocal_kernel<N>, group_shape<N>(x.numel()), stream, pointer<float>(x), of_zero,
           pointer<float>(y), x.numel());
  });
}

void CudaBackend::relu(Stream& stream, ConstTensorView x, TensorView y) {
  check::same_f32({x, y});
  with_width<4>(aligned({x.data, y.data}), [&]<int N>(Width<N>) {
    launch("relu", relu_kernel<N>, group_shape<N>(x.numel()), stream, pointer<float>(x), pointer<float>(y),
           x.numel());
  });
}

void CudaBackend::relu_backward(Stream& stream, ConstTensorView dy, ConstTensorView y, TensorView dx) {
  check::same_f32({dy, y, dx});
  with_width<4>(aligned({dy.data, y.data, dx.data}), [&]<int N>(Width<N>) {
    launch("relu_backward", relu_backward_kernel<N>, group_shape<N>(dy.numel()), stream, pointer<float>(dy),
           pointer<float>(y), pointer<float>(dx), dy.numel());
  });
}

}  // namespace dino::ops
