// SPDX-License-Identifier: Apache-2.0
// Products and what surrounds them. The bias goes through the product's epilogue, rounded to the result's
// dtype, and the exact GELU behind it is a pass that reads `pre` (or y) once and writes y: 4 bytes a bf16
// element, where a pass that added the f32 bias too would write `pre` once more.

#include <array>

#include "ops/checks.hpp"
#include "ops/cuda/blas.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/kernels.hpp"

namespace dino::ops {
namespace {

using cuda::CudaStream;

/// Of a view on a GPU.
template <class View>
[[nodiscard]] auto* address(const View& view) {
  if (view) cuda::check_access(view.dtype, view.dtype, view.device);
  return view.data;
}

/// Tensors in the stream's scratch: all are asked for before the first is used.
class ScratchTensors {
 public:
  /// `to` becomes a tensor of that shape when place() is called.
  void ask(ConstTensorView like, DType dtype, TensorView& to) {
    to = {nullptr, like.shape, dtype, like.device};
    pieces_[count_++] = &to;
  }
  void place(CudaStream& stream) {
    if (count_ == 0) return;
    size_t total = 0;
    for (size_t i = 0; i < count_; ++i) total += bytes_of(*pieces_[i]);
    auto* at = static_cast<std::byte*>(stream.scratch(total));
    for (size_t i = 0; i < count_; ++i) {
      pieces_[i]->data = at;
      at += bytes_of(*pieces_[i]);
    }
  }

 private:
  [[nodiscard]] static size_t bytes_of(const TensorView& piece) {
    constexpr size_t kAlignment = 256;
    const size_t bytes = static_cast<size_t>(piece.shape.numel()) * size_of(piece.dtype);
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  std::array<TensorView*, 3> pieces_{};
  size_t count_ = 0;
};

/// c (+)= op(a) op(b) + bias in the dtype of `a`, with m, n > 0: b is rounded to it, and results of a third
/// dtype are rounded from f32.
void product(CudaStream& stream, cuda::Product p, ConstTensorView a, ConstTensorView b, ConstTensorView bias,
             TensorView c) {
  if (p.k == 0) {
    DINO_CHECK(!bias, "rows without columns have no product to add a bias to");
    if (!p.accumulate) fill(stream, c, 0);
    return;
  }
  p.operands = a.dtype;
  p.tf32 = a.dtype == DType::f32 && stream.tf32_products();
  p.result = c.dtype == a.dtype ? c.dtype : DType::f32;
  TensorView narrow_b, result_bias, wide_c;
  ScratchTensors scratch;
  if (b.dtype != p.operands) scratch.ask(b, p.operands, narrow_b);
  if (bias && bias.dtype != p.result) scratch.ask(bias, p.result, result_bias);
  if (c.dtype != p.result) scratch.ask(c, p.result, wide_c);
  scratch.place(stream);
  if (narrow_b) cuda::convert_elements(stream, b, narrow_b);
  if (result_bias) cuda::convert_elements(stream, bias, result_bias);
  if (wide_c && p.accumulate) cuda::convert_elements(stream, c, wide_c);
  p.a = address(a);
  p.b = narrow_b ? narrow_b.data : address(b);
  p.bias = result_bias ? result_bias.data : address(bias);
  p.c = wide_c ? wide_c.data : address(c);
  cuda::multiply(stream, p);
  if (wide_c) cuda::convert_elements(stream, wide_c, c);
}

}  // namespace

void CudaBackend::linear(Stream& stream, ConstTensorView x, ConstTensorView w, ConstTensorView b,
                         Activation activation, TensorView y, TensorView pre) {
  check::linear(x, w, b, y, pre);
  CudaStream& queue = cuda::cuda_stream(stream);
  cuda::Product p{.m = x.dim(0), .n = y.dim(1), .k = x.dim(1)};
  if (p.m == 0 || p.n == 0) return;
  p.transpose_b = true;
  const TensorView before = pre ? pre : y;
  product(queue, p, x, w, b, before);
  if (activation != Activation::none)
    cuda::activate(queue, activation, before, y);
  else if (pre)
    cuda::convert_elements(queue, pre, y);
}

void CudaBackend::linear_backward_input(Stream& stream, ConstTensorView dy, ConstTensorView w, TensorView dx,
                                        bool accumulate) {
  check::linear_backward_input(dy, w, dx);
  cuda::Product p{.m = dy.dim(0), .n = dx.dim(1), .k = dy.dim(1)};
  if (p.m == 0 || p.n == 0) return;
  p.accumulate = accumulate;
  product(cuda::cuda_stream(stream), p, dy, w, {}, dx);
}

void CudaBackend::linear_backward_weight(Stream& stream, ConstTensorView dy, ConstTensorView x, TensorView dw,
                                         TensorView db) {
  check::linear_backward_weight(dy, x, dw, db);
  CudaStream& queue = cuda::cuda_stream(stream);
  cuda::Product p{.m = dy.dim(1), .n = x.dim(1), .k = dy.dim(0)};
  if (p.m == 0 || p.k == 0) return;
  p.transpose_a = true;
  p.accumulate = true;
  if (p.n > 0) product(queue, p, dy, x, {}, dw);
  if (db) cuda::column_sums(queue, dy, cuda::pointer<float>(db), true);
}

}  // namespace dino::ops
