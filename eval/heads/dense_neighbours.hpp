// SPDX-License-Identifier: Apache-2.0
#pragma once
// Segmentation without training: patches take the labels of the most similar patches of the training images
// (k-NN in context; arXiv 2306.01667).

#include <span>

#include "heads/dense_model.hpp"

namespace dino::eval {

struct PatchMemorySettings {
  int64_t k = 30;
  double temperature = 0.02;
  int64_t patches = 200000;  ///< remembered at most, an equal share of each image, drawn by the seed
  uint64_t seed = 0;
};

/// L2-normalised patch tokens of training images, each with the shares of classes among its pixels that
/// count.
class PatchMemory {
 public:
  PatchMemory(int64_t classes, PatchMemorySettings settings) : classes_(classes), settings_(settings) {}
  /// Reads and encodes the images (shared out over ranks), scaled to squares of `side`; the memory is the
  /// same on all ranks and for any number of them. Collective.
  void fill(const Communicator& world, Extractor& encoder, const DenseImages& images, int64_t side,
            const DenseReading& reading);
  /// Of each pixel of a window: the enlarged shares of classes that its patches' neighbours have, weighted by
  /// softmax(cosine / temperature).
  [[nodiscard]] DenseModel::HostMap scores(const EncodedImage& image, GridSize size) const;
  [[nodiscard]] int64_t size() const {
    return static_cast<int64_t>(values_.size()) / std::max<int64_t>(width_, 1);
  }

 private:
  void add_image(const EncodedImage& encoded, const LabelMap& labels, int64_t patch, int64_t most,
                 int64_t image, std::vector<float>& values, std::vector<float>& shares) const;
  int64_t classes_, width_ = 0;
  PatchMemorySettings settings_;
  std::vector<float> values_;  ///< [patches, width]
  std::vector<float> shares_;  ///< [patches, classes]
};

}  // namespace dino::eval
