// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a step draws besides its crops, for steps without images.

#include "train_config.hpp"
#include "training/masks.hpp"
#include "training/step.hpp"

namespace dino::pretrain {

/// Of the images [begin, end) of the global batch: masks, drawn by `seed` for these alone, so that there is a
/// bound on their number; and the stochastic depth of the global batch.
class StepDraws {
 public:
  StepDraws(const TrainConfig& config, Range images, uint64_t seed, uint64_t step);
  /// As StepBatch has them; of the draws.
  [[nodiscard]] ConstTensorView masks() const;
  [[nodiscard]] int64_t masked_bound() const { return masks_.upper_bound; }
  [[nodiscard]] const DropPathDraw& drop_path() const { return drop_path_; }

 private:
  int64_t views_;
  BatchMasks masks_;
  DropPathDraw drop_path_;
};

}  // namespace dino::pretrain
