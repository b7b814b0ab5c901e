// SPDX-License-Identifier: Apache-2.0
#pragma once
// The precision of a model's activations and products.

#include <cstdint>

#include "base/auto_setting.hpp"
#include "base/names.hpp"
#include "tensor/tensor.hpp"

namespace dino {

/// Activations and products in f32, bf16 or f16 (weights, residual stream, norms' statistics and losses stay
/// f32). CPUs multiply f16 as f32, after rounding the operands: it checks there what a GPU computes, and
/// saves memory, but no time. tf32 is f32 whose products a GPU rounds (Stream::allow_tf32_products).
enum class Precision : uint8_t { f32, bf16, f16, tf32 };
constexpr auto names_of(Precision) {
  return std::to_array<Named<Precision>>({{"fp32", Precision::f32},
                                          {"bf16", Precision::bf16},
                                          {"fp16", Precision::f16},
                                          {"tf32", Precision::tf32}});
}
/// Of what is kept or sent in this precision.
[[nodiscard]] DType dtype_of(Precision precision);
/// What auto means on this machine's CPU, bf16 where it has the instructions, or on a GPU: bf16. UsageError
/// where it is tf32 and the device a CPU.
[[nodiscard]] Precision precision_here(const Auto<Precision>& precision, Device::Kind device);

}  // namespace dino
