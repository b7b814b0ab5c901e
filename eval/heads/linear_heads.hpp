// SPDX-License-Identifier: Apache-2.0
#pragma once
// Softmax regression by SGD with momentum, on rows of a feature file: several heads that differ in their
// learning rate, trained side by side. Their weights stand below each other, so that a step is one product
// forward and one backward for all of them.

#include <cstdint>
#include <vector>

#include "inputs/feature_file.hpp"
#include "tensor/tensor.hpp"

namespace dino::eval {

class LinearHeads {
 public:
  /// Weights from N(0, 0.01), biases 0, as the reference's probes; the same draws for every head.
  LinearHeads(int64_t width, int64_t classes, std::vector<double> rates, uint64_t seed);

  struct Training {
    int64_t epochs = 10, batch = 128;
    uint64_t seed = 0;
  };
  /// `rows` picks those to train on; labels by row of x. Momentum 0.9, no weight decay, learning rate (times
  /// batch / 256) on a cosine to 0 per step; the order of each epoch is drawn from (seed, epoch). A head is
  /// what it would be alone, to rounding.
  void fit(const FeatureView& x, const std::vector<int32_t>& labels, const std::vector<int64_t>& rows,
           const Training& training);
  /// [heads][rows]: class of each picked row (ties: the smaller index).
  [[nodiscard]] std::vector<std::vector<int32_t>> predict(const FeatureView& x,
                                                          const std::vector<int64_t>& rows) const;
  [[nodiscard]] const Tensor& weight() const { return weight_; }  ///< f32 [heads * classes, width]
  [[nodiscard]] const Tensor& bias() const { return bias_; }      ///< f32 [heads * classes]
  [[nodiscard]] int64_t heads() const { return static_cast<int64_t>(rates_.size()); }

 private:
  int64_t width_, classes_;
  std::vector<double> rates_;
  Tensor weight_, bias_;
};

}  // namespace dino::eval
