// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/ops.hpp"
#include "ops/precision.hpp"

namespace dino::ops {

/// GFLOP/s of a large matrix product [rows, 1536] x [1536, 1536] through the backend's own operator, the best
/// of some: the ceiling that steps and forward passes are measured against. A device on which that takes
/// microseconds is asked for many more rows, so that the start of the work does not count.
[[nodiscard]] double gemm_rate(Backend& backend, Precision precision, int64_t rows = 2048, int times = 6);

}  // namespace dino::ops
