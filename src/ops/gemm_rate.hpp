// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/ops.hpp"
#include "ops/precision.hpp"

namespace dino::ops {

/// GFLOP/s of a large matrix product [2048, 1536] x [1536, 1536] through the backend's own operator, the best
/// of six: the ceiling that steps and forward passes are measured against.
[[nodiscard]] double gemm_rate(Backend& backend, Precision precision);

}  // namespace dino::ops
