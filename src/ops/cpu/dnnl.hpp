// SPDX-License-Identifier: Apache-2.0
#pragma once
// The one place that knows oneDNN, and that hides the difference between its v2 and v3 interfaces.

#include <cstdint>
#include <string>

#include "tensor/tensor.hpp"

namespace dino::ops::dnnl {

/// C[m,n] (+)= A[m,k] B[k,n] (+ bias[n]); all dense row-major. A transposed operand is stored as
/// [k,m] or [n,k].
struct Matmul {
  int64_t m, n, k;
  DType a, b, c;  ///< (f32, f32, f32), (bf16, bf16, bf16) or (bf16, bf16, f32); never f16
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;
  bool bias = false;
  bool pack_b = false;  ///< b is f32: rounded to its dtype and brought into oneDNN's own layout first
  int threads = 0;      ///< filled in by run()
  auto operator<=>(const Matmul&) const = default;
};

/// Runs on the OpenMP threads of the caller. Primitives are cached by all fields.
void run(Matmul problem, const void* a, const void* b, const float* bias, void* c);
/// Whether a product runs faster when oneDNN has the weights b in its own layout: of row-major ones it copies
/// every panel again for each block of rows. Measured with oneDNN 2.6 on Zen 4, one thread, products of
/// ViT-S, B and L with 500 to 12000 rows: packed weights take 1-11 % off a product in bf16, 2-14 % in f32,
/// and the more the wider the model; packing takes as long as 40-140 rows of the product (merely rounding to
/// bf16: 12-23). Hence it is done in each product of many rows; weights kept packed for a step would save
/// those 1-2 % too, but need a copy each for the student's forward pass, its backward pass and the teacher.
/// Nothing is gained with AVX2, nor by gradients of weights, whose operands are both read once. Not a bit of
/// the result depends on it.
[[nodiscard]] bool gains_by_packing(const Matmul& problem);
/// Whether the instruction set in use multiplies bf16. Without it oneDNN emulates, slower than f32 products.
[[nodiscard]] bool has_bf16();
/// "oneDNN 2.6.3"
[[nodiscard]] std::string describe();

}  // namespace dino::ops::dnnl
