// SPDX-License-Identifier: Apache-2.0
#pragma once
// The precision of a model's activations and products.

#include <cstdint>

#include "base/auto_setting.hpp"
#include "base/names.hpp"

namespace dino {

/// Activations and products in f32 or bf16 (weights, residual stream, norms' statistics and losses stay f32).
enum class Precision : uint8_t { f32, bf16 };
constexpr auto names_of(Precision) {
  return std::to_array<Named<Precision>>({{"fp32", Precision::f32}, {"bf16", Precision::bf16}});
}
/// What auto means on this CPU: bf16 where it has the instructions.
[[nodiscard]] Precision precision_here(const Auto<Precision>& precision);

}  // namespace dino
