// SPDX-License-Identifier: Apache-2.0
#pragma once
// One rank's part of a global batch of noise, the same images however the batch is split.

#include <algorithm>
#include <cstring>

#include "base/random.hpp"
#include "comm/communicator.hpp"
#include "training/engine.hpp"
#include "training/masks.hpp"

namespace dino::testing {

/// Everything that a step has: stochastic depth, local crops, masks, two heads, KoLeo, layer-wise decay.
inline TrainingConfig micro_training(int64_t local_crops) {
  TrainingConfig config;
  config.vit = vit_preset("vit_micro");
  config.vit.layerscale = 0.5;
  config.vit.drop_path = 0.3;
  config.objective.dino_head = {config.vit.width, 48, 3, 32, 96};
  config.objective.ibot_head = {config.vit.width, 40, 2, 24, 80};
  config.optimizer.layer_decay = 0.9;
  config.local_crops = local_crops;
  return config;
}

/// Crops (32 and 16 pixels) and masks of `images` images of a global batch of `total`, from image `first` on.
struct BatchPart {
  static constexpr int64_t kGlobal = 32, kLocal = 16;
  Tensor global, local, masks;
  StepBatch batch;

  BatchPart(const TrainingConfig& config, int64_t total, int64_t first, int64_t images, uint64_t step,
            bool few_masks) {
    global = Tensor(Shape{2 * images, 3, kGlobal, kGlobal});
    local = Tensor(Shape{std::max<int64_t>(config.local_crops * images, 1), 3, kLocal, kLocal});
    const int64_t patches = (kGlobal / config.vit.patch) * (kGlobal / config.vit.patch);
    masks = Tensor(Shape{2 * images, patches}, DType::u8);
    BlockMaskSettings blocks;
    blocks.grid_h = blocks.grid_w = kGlobal / config.vit.patch;
    blocks.max_patches = 8;
    MaskConfig mask_config;
    mask_config.min_patches = 1;
    BatchMasks all = batch_masks(mask_config, blocks, 2 * total, 5, step);
    if (few_masks)  // only the first image keeps its masks: most ranks have no masked patch
      for (int64_t view = 0; view < 2 * total; ++view)
        std::memset(all.masks.data() + view * patches, view == 0 ? 1 : 0, static_cast<size_t>(patches));
    for (int64_t view = 0; view < 2; ++view)
      for (int64_t i = 0; i < images; ++i) {
        const int64_t source = view * total + first + i, to = view * images + i;
        draw(global, to, step, static_cast<uint64_t>(source));
        std::memcpy(masks.as<uint8_t>() + to * patches, all.masks.data() + source * patches,
                    static_cast<size_t>(patches));
      }
    for (int64_t crop = 0; crop < config.local_crops; ++crop)
      for (int64_t i = 0; i < images; ++i)
        draw(local, crop * images + i, step, static_cast<uint64_t>(1000 + crop * total + first + i));
    batch = {images, global, config.local_crops > 0 ? ConstTensorView(local) : ConstTensorView{}, masks};
  }

 private:
  static void draw(Tensor& crops, int64_t row, uint64_t step, uint64_t id) {
    Random random(step, RandomStream::test, id);
    for (float& value : crops.view().rows(row, 1).f32()) value = static_cast<float>(random.normal());
  }
};

/// Crops of `images` of `total` images, as stochastic depth draws over them.
inline DropPathDraw drop_path_of(const TrainingConfig& config, int64_t total, Range images, uint64_t step) {
  return [=](Range some) {
    const int64_t first = images.begin + some.begin;
    std::vector<DropPathEntry> entries{{2, total, first, some.size()}};
    if (config.local_crops > 0) entries.push_back({config.local_crops, total, first, some.size()});
    return draw_drop_path(config.vit, entries, 11, step);
  };
}

}  // namespace dino::testing
