// SPDX-License-Identifier: Apache-2.0
#pragma once
// k-NN accuracy of the teacher on a labelled validation part while it trains: what tells learning from
// collapse.

#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "model/vit.hpp"
#include "train_config.hpp"

namespace dino::pretrain {

class OnlineKnn {
 public:
  /// Decodes at most knn_limit (knn_test_limit) images of the sets, evenly spread, this rank's part only.
  /// Lists them in RUN/knn-train.index and RUN/knn-test.index. DataError when a set has no labels.
  OnlineKnn(const TrainConfig& config, const std::string& run, const Communicator& comm);
  /// Accuracies by the feature compared: the class token, the mean of the patch tokens, or both side by side
  /// (what dino-eval compares).
  struct Score {
    double cls = 0, patches = 0, all = 0;
    int64_t n = 0;
  };
  /// Computes with the streams of `c`, which the teacher's units are gathered by, in an arena of its own.
  /// Collective; the same on all ranks.
  [[nodiscard]] Score evaluate(const Context& c, const Vit& vit, const UnitWeights& teacher);

 private:
  struct Set {
    Tensor images;  ///< f32 [n, 3, S, S], this rank's
    std::vector<int32_t> labels;
  };
  [[nodiscard]] Set load(const std::string& reference, const std::string& index, int64_t limit,
                         std::vector<std::string>& classes) const;
  /// f32 [n, 2D]: class token | mean of the patch tokens.
  [[nodiscard]] Tensor features(const Context& c, const Vit& vit, const UnitWeights& teacher, const Set& set);
  /// Test images of this rank that `width` columns from `begin` on classify right.
  [[nodiscard]] int64_t right(const Tensor& bank, std::span<const int32_t> labels, const Tensor& queries,
                              int64_t begin, int64_t width) const;

  const TrainConfig& config_;
  const Communicator& comm_;
  std::vector<std::string> classes_;
  Set train_, test_;
  std::unique_ptr<Arena> arena_;  ///< of the device of the first evaluation
  Tensor tokens_;                 ///< of one pass, where the device is not the host
};

}  // namespace dino::pretrain
