// SPDX-License-Identifier: Apache-2.0
#pragma once
// The optimised CPU backend: oneDNN products, vector kernels, OpenMP. Work is split by shape alone, never by
// the number of threads, except inside oneDNN.

#include "ops/overrides.hpp"

namespace dino::ops {

class CpuBackend final : public Backend {
 public:
  [[nodiscard]] const char* name() const override { return "cpu"; }
  [[nodiscard]] Memory& memory() override { return Memory::host(); }
  [[nodiscard]] std::unique_ptr<Stream> new_stream() override { return std::make_unique<HostStream>(); }
  DINO_OPS_OVERRIDES;
};

/// Elementwise conversion between activations' types, for operators that need it on the way.
void convert_elements(ConstTensorView x, TensorView y);

}  // namespace dino::ops
