// SPDX-License-Identifier: Apache-2.0
#include "heads/dense_neighbours.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.hpp"
#include "base/keyed_permutation.hpp"
#include "base/progress.hpp"
#include "base/working.hpp"
#include "comm/together.hpp"
#include "vectors/neighbours.hpp"

namespace dino::eval {

namespace {

void normalise(float* row, int64_t width) {
  double sum = 0;
  for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(row[d]) * static_cast<double>(row[d]);
  const double scale = 1 / std::max(std::sqrt(sum), 1e-12);
  for (int64_t d = 0; d < width; ++d) row[d] = static_cast<float>(static_cast<double>(row[d]) * scale);
}

}  // namespace

void PatchMemory::add_image(const EncodedImage& encoded, const LabelMap& labels, int64_t patch, int64_t most,
                            int64_t image, std::vector<float>& values, std::vector<float>& shares) const {
  const int64_t pixels = encoded.grid.pixels(), width = static_cast<int64_t>(encoded.values.size()) / pixels;
  const KeyedPermutation order(pixels, settings_.seed, RandomStream::sampling, static_cast<uint64_t>(image));
  std::vector<float> share(static_cast<size_t>(classes_));
  int64_t taken = 0;
  for (int64_t i = 0; i < pixels && taken < most; ++i) {
    const int64_t p = order(i), top = p / encoded.grid.width * patch, left = p % encoded.grid.width * patch;
    std::fill(share.begin(), share.end(), 0.0F);
    float counted = 0;
    for (const int16_t label : crop(labels, {top, left, patch, patch}).labels)
      if (label >= 0) ++share[static_cast<size_t>(label)], ++counted;
    if (counted == 0) continue;
    for (const float s : share) shares.push_back(s / counted);
    values.insert(values.end(), encoded.values.begin() + p * width, encoded.values.begin() + (p + 1) * width);
    normalise(values.data() + static_cast<int64_t>(values.size()) - width, width);
    ++taken;
  }
}

void PatchMemory::fill(const Communicator& world, Extractor& encoder, const DenseImages& images, int64_t side,
                       const DenseReading& reading) {
  const int64_t most = std::max<int64_t>(1, settings_.patches / images.size());
  std::vector<float> values, shares;
  width_ = encoder.patch_width() * static_cast<int64_t>(reading.blocks.size());
  together(world, [&] {
    const Range mine = even_range(images.size(), world.rank(), world.size());
    Progress progress("patch memory", mine.size(), "images");
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      work_point();
      DenseSample sample = images.read(i, true);
      progress.add(1);
      if (!sample.fault.empty()) continue;
      sample = training_crop(std::move(sample), DenseTask::segmentation, {side, side}, 1, 1,
                             DenseAugment::none, Random(settings_.seed, RandomStream::augment, 0));
      // One image at a time: what it is encoded with does not depend on the number of ranks.
      const auto encoded = encode(encoder, std::span(&sample.image, 1), reading);
      add_image(encoded[0], sample.labels, encoder.patch_side(), most, i, values, shares);
    }
    progress.finish();
  });
  values_ = world.all_gather_values<float>(std::span<const float>(values));
  shares_ = world.all_gather_values<float>(std::span<const float>(shares));
  if (values_.empty())
    throw DataError(fmt::format("segmentation: {}: no pixel of its images counts; give images with labels",
                                images.set().reference));
}

DenseModel::HostMap PatchMemory::scores(const EncodedImage& image, GridSize size) const {
  const int64_t pixels = image.grid.pixels(), k = std::min(settings_.k, this->size());
  std::vector<float> queries = image.values;
  for (int64_t p = 0; p < pixels; ++p) normalise(queries.data() + p * width_, width_);
  const Neighbours found = nearest(view_of(values_.data(), {this->size(), width_}),
                                   view_of(std::as_const(queries).data(), {pixels, width_}), k);
  std::vector<float> coarse(static_cast<size_t>(pixels * classes_));
  for (int64_t p = 0; p < pixels; ++p) {
    const auto first = static_cast<size_t>(p * k);
    double total = 0;
    std::vector<double> weights;
    for (int64_t i = 0; i < k; ++i) {
      weights.push_back(std::exp(
          static_cast<double>(found.similarity[first + static_cast<size_t>(i)] - found.similarity[first]) /
          settings_.temperature));
      total += weights.back();
    }
    for (int64_t i = 0; i < k; ++i) {
      const float* share = shares_.data() + found.index[first + static_cast<size_t>(i)] * classes_;
      const auto weight = static_cast<float>(weights[static_cast<size_t>(i)] / total);
      for (int64_t c = 0; c < classes_; ++c)
        coarse[static_cast<size_t>(p * classes_ + c)] += weight * share[c];
    }
  }
  return {size, classes_, resampled(coarse, image.grid, classes_, size)};
}

}  // namespace dino::eval
