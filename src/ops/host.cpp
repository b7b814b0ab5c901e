// SPDX-License-Identifier: Apache-2.0
#include "ops/host.hpp"

#include <algorithm>

#include "imaging/augment.hpp"

namespace dino::ops {
namespace {

void check_range(const int64_t* indices, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i)
    DINO_CHECK(indices[i] >= 0 && indices[i] < limit,
               "row " + std::to_string(indices[i]) + " of " + std::to_string(limit));
}

void check_starts(const int64_t* starts, int64_t count, int64_t total) {
  DINO_CHECK(starts[0] == 0 && starts[count] == total,
             "starts end at " + std::to_string(starts[count]) + " of " + std::to_string(total));
  for (int64_t i = 0; i < count; ++i) DINO_CHECK(starts[i] <= starts[i + 1], "starts descend");
}

}  // namespace

HostRows::HostRows(ConstTensorView rows, int64_t limit) : rows_(rows ? rows.as<int64_t>() : nullptr) {
  check_range(rows_, rows.numel(), limit);
}

HostSequences::HostSequences(const Sequences& sequences)
    : starts_(sequences.starts.as<int64_t>()), count_(sequences.count()), causal_(sequences.causal) {
  check_starts(starts_, count_, sequences.rows);
  for (int64_t s = 0; s < count_; ++s) longest_ = std::max(longest_, length(s));
  DINO_CHECK(longest_ == sequences.longest, "the longest sequence has " + std::to_string(longest_) +
                                                " rows, not " + std::to_string(sequences.longest));
}

void check_keys(const HostSequences& queries, const HostSequences& keys) {
  for (int64_t s = 0; s < keys.count(); ++s)
    DINO_CHECK(queries.length(s) == 0 || keys.length(s) > 0, "a query without keys");
}

HostSparse::HostSparse(const SparseRows& matrix, int64_t columns) : starts_(matrix.starts.as<int64_t>()) {
  const int64_t entries = matrix.columns.numel();
  check_starts(starts_, matrix.starts.numel() - 1, entries);
  if (entries == 0) return;
  columns_ = matrix.columns.as<int64_t>();
  weights_ = matrix.weights.as<float>();
  check_range(columns_, entries, columns);
}

HostCrops::HostCrops(ConstTensorView pixels, ConstTensorView pictures, ConstTensorView crops, int64_t size)
    : pixels_(pixels.as<uint8_t>()),
      pictures_(pictures.as<int64_t>()),
      crops_(reinterpret_cast<const CropSteps*>(crops.as<uint8_t>())),
      size_(size) {
  const int64_t count = pictures.dim(0);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = pictures_[3 * i], height = pictures_[3 * i + 1], width = pictures_[3 * i + 2];
    DINO_CHECK(first >= 0 && height > 0 && width > 0 && first + 3 * height * width <= pixels.numel(),
               "picture " + std::to_string(i) + " leaves the pixels");
  }
  for (int64_t i = 0; i < crops.numel() / static_cast<int64_t>(sizeof(CropSteps)); ++i) {
    const CropSteps& crop = crops_[i];
    DINO_CHECK(crop.picture >= 0 && crop.picture < count, "crop of picture " + std::to_string(crop.picture));
    const ImageView picture = picture_of(i);
    DINO_CHECK(crop.top >= 0 && crop.left >= 0 && crop.height > 0 && crop.width > 0 &&
                   crop.top + int64_t{crop.height} <= picture.height &&
                   crop.left + int64_t{crop.width} <= picture.width,
               "the box of crop " + std::to_string(i) + " leaves its picture");
    DINO_CHECK(std::max(crop.height, crop.width) <= Backend::kMostReduction * size,
               "the box of crop " + std::to_string(i) + " is too large");
  }
}

ImageView HostCrops::picture_of(int64_t crop) const {
  const int64_t* picture = pictures_ + int64_t{3} * crops_[crop].picture;
  return {pixels_ + picture[0], picture[2], picture[1], 3};
}

void HostCrops::make(int64_t i, Resampling filter, const Normalisation& normalisation, float* out) const {
  normalize_to(make_crop(picture_of(i), crops_[i], size_, filter), normalisation, out);
}

}  // namespace dino::ops
