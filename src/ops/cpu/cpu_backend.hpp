// SPDX-License-Identifier: Apache-2.0
#pragma once
// The optimised CPU backend: oneDNN products, vector kernels, OpenMP. Work is split by shape alone, never by
// the number of threads, except inside oneDNN.

#include "ops/overrides.hpp"

namespace dino::ops {

class CpuBackend final : public Backend {
 public:
  [[nodiscard]] const char* name() const override { return "cpu"; }
  DINO_OPS_OVERRIDES;
};

}  // namespace dino::ops
