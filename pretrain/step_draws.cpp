// SPDX-License-Identifier: Apache-2.0
#include "step_draws.hpp"

#include <algorithm>

namespace dino::pretrain {

BatchMasks draw_masks(const TrainConfig& config, int64_t views, uint64_t seed, uint64_t step) {
  const int64_t patch = make_training_config(config).vit.patch, grid = config.global_size / patch;
  const BlockMaskSettings blocks{grid, grid, std::min(config.mask_min_patches, grid * grid),
                                 default_max_mask_patches(config.global_size, patch), 0.3};
  return batch_masks(make_mask_config(config), blocks, views, seed, step);
}

std::vector<uint8_t> masks_of(const BatchMasks& masks, int64_t batch, Range images) {
  const int64_t patches = static_cast<int64_t>(masks.masks.size()) / (2 * batch);
  std::vector<uint8_t> own;
  own.reserve(static_cast<size_t>(2 * images.size() * patches));
  for (const int64_t view : {0, 1}) {
    const auto begin = masks.masks.begin() + (view * batch + images.begin) * patches;
    own.insert(own.end(), begin, begin + images.size() * patches);
  }
  return own;
}

DropPathDraw drop_path_of(const TrainConfig& config, Range images, uint64_t seed, uint64_t step) {
  const VitConfig vit = make_training_config(config).vit;
  if (vit.drop_path <= 0) return {};
  return [vit, config, first = images.begin, seed, step](Range some) {
    return draw_drop_path(vit, drop_path_entries(config, {first + some.begin, first + some.end}), seed, step);
  };
}

StepDraws::StepDraws(const TrainConfig& config, Range images, uint64_t seed, uint64_t step)
    : views_(2 * images.size()),
      masks_(draw_masks(config, views_, seed, step)),
      drop_path_(drop_path_of(config, images, 0, step)) {}

ConstTensorView StepDraws::masks() const {
  return view_of(masks_.masks.data(), Shape{views_, static_cast<int64_t>(masks_.masks.size()) / views_});
}

}  // namespace dino::pretrain
