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
  const ClockSpan span(c_.stream.clock(), "crops");
  send(set);
  Place& place = places_[next_];
  c_.stream.wait(place.sent);
  make(place, place.global, augment, augment.global_size, global_);
  batch.global_crops = global_;
  if (!set.local_sources.empty()) {
    make(place, place.local, augment, augment.local_size, local_);
    batch.local_crops = local_;
  }
  place.made = c_.stream.record();
  place.step = -1;
  next_ = 1 - next_;
}

void StepCrops::send(const CropSet& set) {
  if (set.global_sources.empty()) return;
  Place& place = places_[next_];
  if (place.step == set.step) return;
  c_.transfer.wait(place.made);
  const FirstBytes first = send_pictures(set, place.pixels);
  send_sources(set.global_sources, first, place.global);
  if (!set.local_sources.empty()) send_sources(set.local_sources, first, place.local);
  place.sent = c_.transfer.record();
  place.step = set.step;
}

StepCrops::FirstBytes StepCrops::send_pictures(const CropSet& set, Tensor& pixels) {
  int64_t bytes = 0;
  std::vector<const Image*> images;
  FirstBytes first;
  for (const auto* sources : {&set.global_sources, &set.local_sources}) {
    for (const CropSource& source : *sources) {
      const Image* image = source.picture.get();
      if (!first.try_emplace(image, bytes).second) continue;
      images.push_back(image);
      bytes += static_cast<int64_t>(image->pixels.size());
    }
  }
  if (bytes > pixels.numel()) {
    c_.stream.synchronize();
    c_.transfer.synchronize();
    pixels = {};
    // Some more than this step needs, so that a few steps settle it.
    pixels = Tensor::uninitialised(Shape{bytes + bytes / 4}, DType::u8, c_.ops.memory());
  }
  for (const Image* image : images) {
    const auto count = static_cast<int64_t>(image->pixels.size());
    copy(c_.transfer, pixels.view().rows(first.at(image), count),
         view_of(image->pixels.data(), Shape{count}));
  }
  return first;
}

void StepCrops::send_sources(const std::vector<CropSource>& sources, const FirstBytes& first, Sources& to) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(CropSteps));
  const auto count = static_cast<int64_t>(sources.size());
  Tensor pictures(Shape{count, 3}, DType::i64), steps(Shape{count, kBytes}, DType::u8);
  for (int64_t i = 0; i < count; ++i) {
    const CropSource& source = sources[static_cast<size_t>(i)];
    int64_t* picture = pictures.as<int64_t>() + 3 * i;
    picture[0] = first.at(source.picture.get());
    picture[1] = source.picture->height;
    picture[2] = source.picture->width;
    CropSteps own = source.steps;
    own.picture = static_cast<int32_t>(i);
    std::memcpy(steps.as<uint8_t>() + i * kBytes, &own, sizeof(own));
  }
  if (to.pictures.numel() == 0) {
    to.pictures = Tensor::uninitialised(pictures.shape(), DType::i64, c_.ops.memory());
    to.steps = Tensor::uninitialised(steps.shape(), DType::u8, c_.ops.memory());
  }
  DINO_CHECK(to.steps.shape() == steps.shape(), "every step has as many crops");
  copy(c_.transfer, to.pictures, pictures);
  copy(c_.transfer, to.steps, steps);
}

void StepCrops::make(const Place& place, const Sources& sources, const AugmentConfig& augment, int64_t size,
                     Tensor& crops) {
  const Shape shape{sources.steps.shape()[0], 3, size, size};
  if (crops.numel() == 0) crops = Tensor::uninitialised(shape, DType::f32, c_.ops.memory());
  DINO_CHECK(crops.shape() == shape, "crops of a loader have one size");
  c_.ops.augment_crops(c_.stream, place.pixels, sources.pictures, sources.steps, augment.resampling,
                       augment.normalisation, crops);
}

void send_upcoming(DataLoader& loader, StepCrops& crops) {
  if (const CropSet* const set = loader.upcoming()) crops.send(*set);
}

int64_t StepCrops::bytes() const {
  int64_t bytes = global_.bytes() + local_.bytes();
  for (const Place& place : places_)
    for (const Tensor* tensor : {&place.pixels, &place.global.pictures, &place.global.steps,
                                 &place.local.pictures, &place.local.steps})
      bytes += tensor->bytes();
  return bytes;
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
  fetch(global_, buffer.global_crops);
  if (!set.local_sources.empty()) fetch(local_, buffer.local_crops);
  c_.stream.synchronize();
  return buffer;
}

}  // namespace dino::pretrain
