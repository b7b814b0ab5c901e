// SPDX-License-Identifier: Apache-2.0
#pragma once
// Images with a class or a depth for every pixel, as heads train and are tested on them.

#include <memory>
#include <string>
#include <vector>

#include "base/names.hpp"
#include "base/random.hpp"
#include "datasets/dense_dataset.hpp"
#include "model/sparse_map.hpp"
#include "task.hpp"

namespace dino::eval {

/// What a reference holds: pairs of images and maps; or, for segmentation, images whose alpha channel is
/// taken as two classes, on drawn backgrounds (composite.hpp).
class DenseImages {
 public:
  /// Of the part that the source names at most `limit` images, spread evenly over the order of the data set.
  /// `side`: of the square that a cut-out is drawn on. Errors as open_dense_dataset and open_dataset.
  DenseImages(const Source& source, DenseTask task, int64_t limit, int64_t side, DecodeLimits limits,
              uint64_t seed);
  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(chosen_.size()); }
  [[nodiscard]] const std::string& key(int64_t i) const;
  [[nodiscard]] std::vector<std::string> keys() const;
  [[nodiscard]] DenseSample read(int64_t i, bool training) const;
  [[nodiscard]] const std::string& name() const { return set_.name; }
  [[nodiscard]] const std::vector<std::string>& classes() const { return set_.classes; }
  [[nodiscard]] const DenseDataset& set() const { return set_; }
  [[nodiscard]] bool cut_outs() const { return cut_outs_; }

 private:
  DenseDataset set_;
  Dataset cut_out_records_;
  std::vector<int64_t> chosen_;  ///< of the pairs or the cut-outs
  bool cut_outs_ = false;
  int64_t side_;
  DecodeLimits limits_;
  uint64_t seed_;
};

/// The message where none of the images has an alpha channel that tells two classes.
[[nodiscard]] std::string no_cut_outs(const DenseImages& images);

/// none: the image's shorter side becomes that of the crop, whose middle is taken. published: what the
/// published heads train on (dense_images.cpp).
enum class DenseAugment : uint8_t { none, published };
constexpr auto names_of(DenseAugment) {
  return std::to_array<Named<DenseAugment>>(
      {{"none", DenseAugment::none}, {"published", DenseAugment::published}});
}

/// One input of training: an image of the crop's size, and its map at the same pixels.
[[nodiscard]] DenseSample training_crop(DenseSample sample, DenseTask task, GridSize crop, double least_scale,
                                        double most_scale, DenseAugment augment, Random random);

/// Bilinear (antialiased), to a shorter side of `side`.
[[nodiscard]] Image scaled_to(const Image& image, int64_t side);
/// Zeros around it, as many on both sides, to whole patches (DINOv2's CenterPadding).
[[nodiscard]] Image padded_to_patches(const Image& image, int64_t patch, Box& inner);

}  // namespace dino::eval
