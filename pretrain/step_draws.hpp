// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a step draws besides its crops.

#include "train_config.hpp"
#include "training/masks.hpp"
#include "training/step.hpp"

namespace dino::pretrain {

/// Of `views` global crops, by (seed, step).
[[nodiscard]] BatchMasks draw_masks(const TrainConfig& config, int64_t views, uint64_t seed, uint64_t step);
/// Those of images [begin, end) of the 2 `batch` views, which are laid out as crops are: view 1 of all
/// images, then view 2.
[[nodiscard]] std::vector<uint8_t> masks_of(const BatchMasks& masks, int64_t batch, Range images);
/// Stochastic depth of these images of the global batch; empty where there is none.
[[nodiscard]] DropPathDraw drop_path_of(const TrainConfig& config, Range images, uint64_t seed,
                                        uint64_t step);

/// For steps without images, of the images [begin, end) of the global batch: masks, drawn by `seed` for these
/// alone, so that there is a bound on their number; and the stochastic depth of the global batch.
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
