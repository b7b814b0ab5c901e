// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a ParameterState of any size keeps and moves, without making one.

#include <cstdint>

#include "parallel/shard_plan.hpp"
#include "tensor/tensor.hpp"

namespace dino {

/// Of one rank; f32 but for gradients on their way.
struct StateBytes {
  int64_t parameters = 0;  ///< student and teacher
  int64_t gradients = 0;
  int64_t moments = 0;
  /// Of units that are gathered or reduced, as a step with several blocks comes to need them (a model with
  /// fewer than three blocks needs less).
  int64_t buffers = 0;
  /// Received by collectives in a step of `passes` (see below).
  int64_t received = 0;
};

/// How often a step goes through the backbone's units.
struct StatePasses {
  int64_t teacher = 1, student = 1;  ///< forward, over all micro-batches
  int64_t backward = 1;
};

/// `hybrid_ranks` divides `ranks`; `reduce` as ParameterState takes it.
[[nodiscard]] StateBytes state_bytes(const ParameterLayout& layout, Strategy strategy, int64_t hybrid_ranks,
                                     DType reduce, int ranks, const StatePasses& passes);

}  // namespace dino
