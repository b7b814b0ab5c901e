// SPDX-License-Identifier: Apache-2.0
#include "base/cpu.hpp"
#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/dnnl.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/scratch.hpp"

namespace dino::ops {
namespace {

/// The operand in another dtype; the operand itself where that is its dtype already.
ConstTensorView in_dtype(ConstTensorView x, DType dtype, Scratch& scratch) {
  if (x.dtype == dtype) return x;
  const TensorView copy{scratch.bytes(static_cast<size_t>(x.numel()) * size_of(dtype)), x.shape, dtype,
                        x.device};
  convert_elements(x, copy);
  return copy;
}

/// y = x w^T + b in f32 by our own kernel, in tiles of a fixed size. Narrower rows of x are widened once
/// by the thread that works on them, and a tile of narrower results is rounded while it is in the cache.
template <class A, class C>
void chained_product(const dnnl::Matmul& p, const A* a, const float* b, const float* bias, C* c) {
  constexpr int64_t kRows = 96, kColumns = 256;
  const int64_t across = (p.n + kColumns - 1) / kColumns;
  const int64_t tiles = (p.m + kRows - 1) / kRows * across;
#pragma omp parallel if (tiles > 1)
  {
    thread_local Scratch wide_rows, wide_tile;
    int64_t widened = -1;  // the row that wide_rows begins with
#pragma omp for schedule(static)
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t row = tile / across * kRows;
      const int64_t column = tile % across * kColumns;
      const int64_t rows = std::min(kRows, p.m - row);
      const int64_t columns = std::min(kColumns, p.n - column);
      const float* left = nullptr;
      float* to = nullptr;
      int64_t stride = p.n;
      if constexpr (std::is_same_v<A, float>) {
        left = a + row * p.k;
      } else {
        float* wide = wide_rows.floats(kRows * p.k);
        if (widened != row) act_kernels<A>().to_float(a + row * p.k, wide, rows * p.k);
        widened = row;
        left = wide;
      }
      if constexpr (std::is_same_v<C, float>)
        to = c + row * p.n + column;
      else
        to = wide_tile.floats(kRows * (stride = kColumns));
      kernels().gemm_nt(rows, columns, p.k, left, p.k, b + column * p.k, p.k, to, stride);
      for (int64_t r = 0; r < rows; ++r) {
        float* y = to + r * stride;
        if (bias != nullptr) kernels().f32.add_scaled(y, bias + column, nullptr, 1.0f, columns);
        if constexpr (!std::is_same_v<C, float>)
          act_kernels<C>().from_float(y, c + (row + r) * p.n + column, columns);
      }
    }
  }
}

/// c (+)= a b with any mix of activations' types. The product runs in the dtype of `a`: b is rounded to it.
void product(dnnl::Matmul p, ConstTensorView a, ConstTensorView b, ConstTensorView bias, TensorView c) {
  for (const ConstTensorView& x : {a, b, ConstTensorView(c)})
    DINO_CHECK(x.device.is_host(), "a product of the host's tensors");
  if (p.m == 0 || p.n == 0) return;
  thread_local Scratch rounded_b, wide_a, wide_b, wide_c;
  // Without bf16 instructions the same rounded numbers are multiplied in f32, and f16 always: oneDNN has no
  // products of it on CPUs.
  const DType compute = a.dtype == DType::bf16 && dnnl::has_bf16() ? DType::bf16 : DType::f32;
  p.a = p.b = compute;
  // Packing rounds on the way.
  p.pack_b = b.dtype == DType::f32 && a.dtype == compute && dnnl::gains_by_packing(p);
  const ConstTensorView right = p.pack_b ? b : in_dtype(in_dtype(b, a.dtype, rounded_b), compute, wide_b);
  const float* bias_data = bias ? bias.as<float>() : nullptr;
  // A row of the forward product must not depend on its neighbours in the batch or on the number of threads:
  // curation promises the same embeddings for any number of ranks. oneDNN's AVX-512 products keep that
  // promise (tests/ops/linear_test.cpp), its older ones block k by the shape.
  if (p.transpose_b && cpu_level() < CpuLevel::avx512) {
    with_act(a.dtype, [&]<class A>(A) {
      with_act(c.dtype,
               [&]<class C>(C) { chained_product(p, a.as<A>(), right.as<float>(), bias_data, c.as<C>()); });
    });
    return;
  }
  const ConstTensorView left = in_dtype(a, compute, wide_a);
  p.c = compute == DType::f32 ? DType::f32 : c.dtype;
  if (p.c == c.dtype) {
    dnnl::run(p, left.data, right.data, bias_data, c.data);
    return;
  }
  const TensorView wide{wide_c.bytes(static_cast<size_t>(c.numel()) * sizeof(float)), c.shape, DType::f32,
                        c.device};
  if (p.accumulate) convert_elements(c, wide);
  dnnl::run(p, left.data, right.data, bias_data, wide.data);
  convert_elements(wide, c);
}

void activate(Activation activation, ConstTensorView pre, TensorView y) {
  if (pre.dtype != y.dtype) {
    convert_elements(pre, y);
    pre = y;
  }
  with_act(y.dtype, [&]<class T>(T) {
    const T* in = pre.as<T>();
    T* out = y.as<T>();
    const auto row = activation == Activation::gelu ? act_kernels<T>().gelu : act_kernels<T>().quick_gelu;
    for_blocks(y.numel(), 4096, [&](int64_t i, int64_t n) { row(in + i, out + i, n); });
  });
}

}  // namespace

void CpuBackend::linear(Stream&, ConstTensorView x, ConstTensorView w, ConstTensorView b,
                        Activation activation, TensorView y, TensorView pre) {
  check::linear(x, w, b, y, pre);
  dnnl::Matmul p{.m = x.dim(0), .n = y.dim(1), .k = x.dim(1), .a = {}, .b = {}, .c = {}};
  p.transpose_b = true;
  const TensorView before = pre ? pre : y;
  product(p, x, w, b, before);
  // A pass of its own is as fast as oneDNN's in bf16, and in f32 faster.
  if (activation != Activation::none)
    activate(activation, before, y);
  else if (pre)
    convert_elements(pre, y);
}

void CpuBackend::linear_backward_input(Stream&, ConstTensorView dy, ConstTensorView w, TensorView dx,
                                       bool accumulate) {
  check::linear_backward_input(dy, w, dx);
  dnnl::Matmul p{.m = dy.dim(0), .n = dx.dim(1), .k = dy.dim(1), .a = {}, .b = {}, .c = {}};
  p.accumulate = accumulate;
  product(p, dy, w, {}, dx);
}

void CpuBackend::linear_backward_weight(Stream&, ConstTensorView dy, ConstTensorView x, TensorView dw,
                                        TensorView db) {
  check::linear_backward_weight(dy, x, dw, db);
  dnnl::Matmul p{.m = dy.dim(1), .n = x.dim(1), .k = dy.dim(0), .a = {}, .b = {}, .c = {}};
  if (p.k == 0) return;
  p.transpose_a = true;
  p.accumulate = true;
  product(p, dy, x, {}, dw);
  if (!db) return;
  const int64_t width = dy.dim(1);
  with_act(dy.dtype, [&]<class T>(T) {
    const T* gradient = dy.as<T>();
    chunked_column_sums(dy.dim(0), width, {db.as<float>()}, [&](int64_t first, int64_t rows, float* sums) {
      for (int64_t r = first; r < first + rows; ++r)
        act_kernels<T>().add_scaled(sums, gradient + r * width, nullptr, 1.0f, width);
    });
  });
}

}  // namespace dino::ops
