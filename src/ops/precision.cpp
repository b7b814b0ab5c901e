// SPDX-License-Identifier: Apache-2.0
#include "ops/precision.hpp"

#include "base/cpu.hpp"

namespace dino {

Precision precision_here(const Auto<Precision>& precision) {
  if (!precision.is_auto()) return precision;
  return cpu_has_bf16() ? Precision::bf16 : Precision::f32;
}

}  // namespace dino
