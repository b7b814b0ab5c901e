// SPDX-License-Identifier: Apache-2.0
#pragma once
// The one place that knows oneDNN, and that hides the difference between its v2 and v3 interfaces.

#include <cstdint>
#include <string>

#include "tensor/tensor.hpp"

namespace dino::ops::dnnl {

/// C[m,n] (+)= A[m,k] B[k,n] (+ bias[n]), then GELU; all dense row-major. A transposed operand is stored as
/// [k,m] or [n,k].
struct Matmul {
  int64_t m, n, k;
  DType a, b, c;  ///< (f32, f32, f32), (bf16, bf16, bf16) or (bf16, bf16, f32); never f16
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;
  bool bias = false;
  bool gelu = false;
  int threads = 0;  ///< filled in by run()
  auto operator<=>(const Matmul&) const = default;
};

/// Runs on the OpenMP threads of the caller. Primitives are cached by all fields.
void run(Matmul problem, const void* a, const void* b, const float* bias, void* c);
/// Whether the instruction set in use multiplies bf16. Without it oneDNN emulates, slower than f32 products.
[[nodiscard]] bool has_bf16();
/// "oneDNN 2.6.3"
[[nodiscard]] std::string describe();

}  // namespace dino::ops::dnnl
