// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside comm/ only: sums that depend on nothing but the values and the number of ranks.

#include <cstdint>
#include <type_traits>

#include "tensor/tensor.hpp"

namespace dino::mpi {

template <class T>
double widened(T value) {
  if constexpr (std::is_arithmetic_v<T>)
    return static_cast<double>(value);
  else
    return static_cast<double>(static_cast<float>(value));
}

/// Of 16-bit floats by way of f32.
template <class T>
T narrowed(double value) {
  if constexpr (std::is_arithmetic_v<T>)
    return static_cast<T>(value);
  else
    return T(static_cast<float>(value));
}

/// function(T{}) with the type of a dtype of floats.
template <class Function>
auto with_float(DType dtype, const Function& function) {
  if (dtype == DType::f32) return function(float{});
  if (dtype == DType::bf16) return function(bf16{});
  if (dtype == DType::f16) return function(f16{});
  return function(double{});
}

/// out[i] = sum over ranks r of parts[r * n + i], in rank order with a double accumulator: the result is a
/// function of the values alone, whatever algorithm MPI picks for the transfer.
template <class T>
void sum_in_rank_order(const T* parts, int ranks, int64_t n, T* out) {
  for (int64_t i = 0; i < n; ++i) {
    double total = 0;
    for (int r = 0; r < ranks; ++r) total += widened(parts[r * n + i]);
    out[i] = narrowed<T>(total);
  }
}

}  // namespace dino::mpi
