// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a training step takes, known without taking it: the engine's own steps on a device without bytes,
// among ranks that are not there. A change of the model changes the count with it.

#include <cstdint>

#include "training/engine.hpp"

namespace dino {

/// What the first of `ranks` ranks does in a step.
struct StepSizes {
  int ranks = 1;
  int64_t images = 1;  ///< of this rank; the others are taken to have as many
  int64_t global_side = 224, local_side = 98;
  ConstTensorView masks;     ///< as StepBatch has them
  int64_t masked_bound = 0;  ///< likewise
  DropPathDraw drop_path;
};

struct CountedStep {
  StateBytes state;         ///< as ParameterState counts it after a step
  int64_t activations = 0;  ///< as Engine::arena_bytes
  /// By collectives of the state in a step, after one before it.
  int64_t received = 0;
};

/// A step on that backend's device, or two where there are other ranks. No memory beyond some lists is
/// touched, and nothing is computed.
[[nodiscard]] CountedStep count_step(const TrainingConfig& config, const StepSizes& sizes,
                                     const ops::Backend& backend);

}  // namespace dino
