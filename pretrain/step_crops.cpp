// SPDX-License-Identifier: Apache-2.0
#include "step_crops.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"

namespace dino::pretrain {

void StepCrops::give(const CropSet& set, const AugmentConfig& augment, StepBatch& batch) {
  if (set.global_sources.empty()) {
    batch.global_crops = set.global_crops;
    if (set.local_crops.numel() > 0) batch.local_crops = set.local_crops;
    return;
  }
  // Beside what is left of the last step, but for the making of its crops.
  c_.transfer.wait(made_);
  upload_pictures(set);
  make(set.global_sources, augment, augment.global_size, global_);
  batch.global_crops = global_.crops;
  if (!set.local_sources.empty()) {
    make(set.local_sources, augment, augment.local_size, local_);
    batch.local_crops = local_.crops;
  }
  made_ = c_.stream.record();
}

void StepCrops::upload_pictures(const CropSet& set) {
  int64_t bytes = 0;
  std::vector<const Image*> images;
  first_.clear();
  for (const auto* sources : {&set.global_sources, &set.local_sources}) {
    for (const CropSource& source : *sources) {
      const Image* image = source.picture.get();
      if (!first_.try_emplace(image, bytes).second) continue;
      images.push_back(image);
      bytes += static_cast<int64_t>(image->pixels.size());
    }
  }
  if (bytes > pixels_.numel()) {
    c_.stream.synchronize();
    c_.transfer.synchronize();
    pixels_ = {};
    // Some more than this step needs, so that a few steps settle it.
    pixels_ = Tensor::uninitialised(Shape{bytes + bytes / 4}, DType::u8, c_.ops.memory());
  }
  for (const Image* image : images) {
    const auto count = static_cast<int64_t>(image->pixels.size());
    copy(c_.transfer, pixels_.view().rows(first_.at(image), count),
         view_of(image->pixels.data(), Shape{count}));
  }
}

void StepCrops::make(const std::vector<CropSource>& sources, const AugmentConfig& augment, int64_t size,
                     Group& group) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(CropSteps));
  const auto count = static_cast<int64_t>(sources.size());
  Tensor pictures(Shape{count, 3}, DType::i64), steps(Shape{count, kBytes}, DType::u8);
  for (int64_t i = 0; i < count; ++i) {
    const CropSource& source = sources[static_cast<size_t>(i)];
    int64_t* picture = pictures.as<int64_t>() + 3 * i;
    picture[0] = first_.at(source.picture.get());
    picture[1] = source.picture->height;
    picture[2] = source.picture->width;
    CropSteps own = source.steps;
    own.picture = static_cast<int32_t>(i);
    std::memcpy(steps.as<uint8_t>() + i * kBytes, &own, sizeof(own));
  }
  const Shape shape{count, 3, size, size};
  if (group.crops.numel() == 0) {
    Memory& memory = c_.ops.memory();
    group.pictures = Tensor::uninitialised(pictures.shape(), DType::i64, memory);
    group.steps = Tensor::uninitialised(steps.shape(), DType::u8, memory);
    group.crops = Tensor::uninitialised(shape, DType::f32, memory);
  }
  DINO_CHECK(group.crops.shape() == shape, "every step has as many crops");
  copy(c_.transfer, group.pictures, pictures);
  copy(c_.transfer, group.steps, steps);
  c_.stream.wait(c_.transfer.record());
  c_.ops.augment_crops(c_.stream, pixels_, group.pictures, group.steps, augment.resampling,
                       augment.normalisation, group.crops);
}

const CropSet& StepCrops::on_host(const CropSet& set, CropSet& buffer) const {
  if (set.global_sources.empty()) return set;
  buffer.step = set.step;
  buffer.images = set.images;
  buffer.checksum = set.checksum;
  const auto fetch = [&](const Tensor& from, Tensor& to) {
    to = Tensor::uninitialised(from.shape(), from.dtype());
    copy(c_.stream, to, from);
  };
  fetch(global_.crops, buffer.global_crops);
  if (!set.local_sources.empty()) fetch(local_.crops, buffer.local_crops);
  c_.stream.synchronize();
  return buffer;
}

}  // namespace dino::pretrain
