// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/cpu/scratch.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {

class CpuBackend final : public ReferenceBackend {
 public:
  [[nodiscard]] const char* name() const override { return "cpu"; }
  void linear(ConstTensorView x, ConstTensorView w, ConstTensorView b, Activation activation, TensorView y,
              TensorView pre) override;
  void linear_backward_input(ConstTensorView dy, ConstTensorView w, TensorView dx, bool accumulate) override;
  void linear_backward_weight(ConstTensorView dy, ConstTensorView x, TensorView dw, TensorView db) override;
};

}  // namespace dino::ops
