// SPDX-License-Identifier: Apache-2.0
#include "ops/precision.hpp"

#include "base/cpu.hpp"
#include "base/error.hpp"

namespace dino {

DType dtype_of(Precision precision) {
  switch (precision) {
    case Precision::f32:
    case Precision::tf32:
      return DType::f32;
    case Precision::bf16:
      return DType::bf16;
    case Precision::f16:
      return DType::f16;
  }
  return DType::f32;
}

Precision precision_here(const Auto<Precision>& precision, Device::Kind device) {
  if (!precision.is_auto() && precision.value() == Precision::tf32 && device == Device::Kind::cpu)
    throw UsageError(
        "--precision tf32: is of products on a GPU, and the device is a CPU; use --device cuda or another "
        "precision");
  if (!precision.is_auto()) return precision;
  return device != Device::Kind::cpu || cpu_has_bf16() ? Precision::bf16 : Precision::f32;
}

}  // namespace dino
