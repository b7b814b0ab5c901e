// SPDX-License-Identifier: Apache-2.0
#pragma once
// Matrix products on a GPU. blas.cpp carries them out by cuBLASLt; the executor in tests/simt by plain loops.

#include <cstdint>
#include <string>

#include "tensor/cuda/device.hpp"

namespace dino::cuda {

/// c[m,n] = op(a)[m,k] op(b)[k,n] + bias, all row-major and contiguous, sums in f32.
struct Product {
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false;  ///< a is stored [k, m]
  bool transpose_b = false;  ///< b is stored [n, k]
  bool accumulate = false;   ///< c += instead of =
  bool tf32 = false;         ///< f32 operands are rounded to TF32
  DType operands = DType::f32;
  DType result = DType::f32;  ///< f32, or that of the operands
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;  ///< [n] of the result's dtype; may be null
  void* c = nullptr;
};
/// Enqueues it. m, n, k > 0.
void multiply(CudaStream& stream, const Product& product);

/// For --version: "cuBLASLt 13.1".
[[nodiscard]] std::string describe_blas();

}  // namespace dino::cuda
