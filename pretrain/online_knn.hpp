// SPDX-License-Identifier: Apache-2.0
#pragma once
// k-NN accuracy of the teacher on a labelled validation part while it trains: what tells learning from
// collapse.

#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "model/vit.hpp"
#include "train_config.hpp"

namespace dino::pretrain {

class OnlineKnn {
 public:
  /// Decodes at most knn_limit images of each set (evenly spread over the set), this rank's part only.
  /// DataError when a set has no labels.
  OnlineKnn(const TrainConfig& config, const Communicator& comm);
  struct Score {
    double accuracy = 0;
    int64_t n = 0;
  };
  /// Collective; the same on all ranks.
  [[nodiscard]] Score evaluate(const Vit& vit, const ParameterStore& teacher);

 private:
  struct Set {
    Tensor images;  ///< f32 [n, 3, S, S], this rank's
    std::vector<int32_t> labels;
  };
  [[nodiscard]] Set load(const std::string& reference, std::vector<std::string>& classes) const;
  [[nodiscard]] Tensor features(const Vit& vit, const ParameterStore& teacher, const Set& set);

  const TrainConfig& config_;
  const Communicator& comm_;
  std::vector<std::string> classes_;
  Set train_, test_;
  Arena arena_;
};

}  // namespace dino::pretrain
