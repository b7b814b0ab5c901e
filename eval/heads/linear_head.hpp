// SPDX-License-Identifier: Apache-2.0
#pragma once
// Softmax regression by SGD with momentum, on rows of a feature file.

#include <cstdint>
#include <vector>

#include "inputs/feature_file.hpp"
#include "tensor/tensor.hpp"

namespace dino::eval {

class LinearHead {
 public:
  /// Weights from N(0, 0.01), biases 0, as the reference's probes.
  LinearHead(int64_t width, int64_t classes, uint64_t seed);

  struct Training {
    double lr = 0.01;  ///< times batch / 256
    int64_t epochs = 10, batch = 128;
    uint64_t seed = 0;
  };
  /// `rows` picks those to train on; labels by row of x. Momentum 0.9, no weight
  /// decay, cosine to 0 per step; the order of each epoch is drawn from (seed, epoch).
  void fit(const FeatureView& x, const std::vector<int32_t>& labels, const std::vector<int64_t>& rows,
           const Training& training);
  /// Class of each picked row (ties: the smaller index).
  [[nodiscard]] std::vector<int32_t> predict(const FeatureView& x, const std::vector<int64_t>& rows) const;
  [[nodiscard]] double accuracy(const FeatureView& x, const std::vector<int64_t>& rows,
                                const std::vector<int32_t>& truth) const;
  [[nodiscard]] const Tensor& weight() const { return weight_; }  ///< f32 [classes, width]
  [[nodiscard]] const Tensor& bias() const { return bias_; }

 private:
  int64_t width_, classes_;
  Tensor weight_, bias_;
};

}  // namespace dino::eval
