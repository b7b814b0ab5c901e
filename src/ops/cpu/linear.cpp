// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/dnnl.hpp"

namespace dino::ops {
namespace {

Backend& backend_of_conversions() {
  return backend();
}

/// The operand in another dtype; the operand itself where that is its dtype already.
ConstTensorView in_dtype(ConstTensorView x, DType dtype, Scratch& scratch) {
  if (x.dtype == dtype) return x;
  const TensorView copy{scratch.bytes(static_cast<size_t>(x.numel()) * size_of(dtype)), x.shape, dtype,
                        x.device};
  backend_of_conversions().convert(x, copy);
  return copy;
}

thread_local Scratch scratch_a, scratch_b, scratch_c;

/// c (+)= a b with any mix of f32 and bf16: operands go to the dtype of `a` (to f32 where oneDNN lacks bf16).
void product(dnnl::Matmul p, ConstTensorView a, ConstTensorView b, ConstTensorView bias, TensorView c) {
  if (p.m == 0 || p.n == 0) return;
  const ConstTensorView rounded = in_dtype(b, a.dtype, scratch_b);
  const DType compute = a.dtype == DType::bf16 && dnnl::has_bf16() ? DType::bf16 : DType::f32;
  static thread_local Scratch scratch_wide;
  const ConstTensorView left = in_dtype(a, compute, scratch_a);
  const ConstTensorView right = in_dtype(rounded, compute, scratch_wide);
  p.a = p.b = compute;
  p.c = compute == DType::f32 ? DType::f32 : c.dtype;
  const float* bias_data = bias ? bias.as<float>() : nullptr;
  if (p.c == c.dtype) {
    dnnl::run(p, left.data, right.data, bias_data, c.data);
    return;
  }
  TensorView wide{scratch_c.bytes(static_cast<size_t>(c.numel()) * sizeof(float)), c.shape, DType::f32,
                  c.device};
  if (p.accumulate) backend_of_conversions().convert(c, wide);
  dnnl::run(p, left.data, right.data, bias_data, wide.data);
  backend_of_conversions().convert(wide, c);
}

}  // namespace

void CpuBackend::linear(ConstTensorView x, ConstTensorView w, ConstTensorView b, Activation activation,
                        TensorView y, TensorView pre) {
  check::linear(x, w, b, y, pre);
  const bool gelu = activation == Activation::gelu;
  dnnl::Matmul p{.m = x.dim(0), .n = y.dim(1), .k = x.dim(1), .a = {}, .b = {}, .c = {}};
  p.transpose_b = true;
  p.gelu = gelu && !pre;
  product(p, x, w, b, pre ? pre : y);
  if (!pre) return;
  if (!gelu) {
    convert(pre, y);
    return;
  }
  const Reader in(pre);
  for (int64_t i = 0; i < y.numel(); ++i) Writer(y).set(i, ops::gelu(in[i]));
}

void CpuBackend::linear_backward_input(ConstTensorView dy, ConstTensorView w, TensorView dx,
                                       bool accumulate) {
  check::linear_backward_input(dy, w, dx);
  dnnl::Matmul p{.m = dy.dim(0), .n = dx.dim(1), .k = dy.dim(1), .a = {}, .b = {}, .c = {}};
  p.accumulate = accumulate;
  product(p, dy, w, {}, dx);
}

void CpuBackend::linear_backward_weight(ConstTensorView dy, ConstTensorView x, TensorView dw, TensorView db) {
  check::linear_backward_weight(dy, x, dw, db);
  dnnl::Matmul p{.m = dy.dim(1), .n = x.dim(1), .k = dy.dim(0), .a = {}, .b = {}, .c = {}};
  if (p.k == 0) return;
  p.transpose_a = true;
  p.accumulate = true;
  product(p, dy, x, {}, dw);
  if (!db) return;
  const Reader gradient(dy);
  for (int64_t c = 0; c < dy.dim(1); ++c) {
    double sum = 0;
    for (int64_t r = 0; r < dy.dim(0); ++r) sum += gradient[r * dy.dim(1) + c];
    Writer(db).add(c, sum);
  }
}

}  // namespace dino::ops
