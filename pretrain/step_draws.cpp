// SPDX-License-Identifier: Apache-2.0
#include "step_draws.hpp"

#include <algorithm>

namespace dino::pretrain {

StepDraws::StepDraws(const TrainConfig& config, Range images, uint64_t seed, uint64_t step)
    : views_(2 * images.size()) {
  const VitConfig vit = make_training_config(config).vit;
  const int64_t grid = config.global_size / vit.patch;
  const BlockMaskSettings blocks{grid, grid, std::min(config.mask_min_patches, grid * grid),
                                 default_max_mask_patches(config.global_size, vit.patch), 0.3};
  masks_ = batch_masks(make_mask_config(config), blocks, views_, seed, step);
  if (vit.drop_path <= 0) return;
  drop_path_ = [vit, config, first = images.begin, step](Range some) {
    return draw_drop_path(vit, drop_path_entries(config, {first + some.begin, first + some.end}), 0, step);
  };
}

ConstTensorView StepDraws::masks() const {
  return view_of(masks_.masks.data(), Shape{views_, static_cast<int64_t>(masks_.masks.size()) / views_});
}

}  // namespace dino::pretrain
