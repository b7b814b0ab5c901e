// SPDX-License-Identifier: Apache-2.0
#pragma once
// Dynamic loss scaling: what keeps small gradients above the smallest f16 number.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "training/config.hpp"

namespace dino {

/// Where gradients are computed or sent in f16, those of the losses are multiplied by a scale (arXiv
/// 1710.03740; torch.amp.GradScaler), which the optimizer takes back. A step whose gradients are not finite
/// is not applied, on any rank, and halves the scale; kGrowthSteps finite ones in a row double it. The
/// reference averages the teacher in a step that it leaves out; here such a step changes nothing.
class LossScale {
 public:
  static constexpr int64_t kGrowthSteps = 2000;
  /// It falls no lower; it grows no higher, and does not begin higher than the last.
  static constexpr double kLeast = 1, kMost = 1 << 24, kMostGiven = 0x1p60;

  /// Without f16 the scale is 1 and stays.
  explicit LossScale(const TrainingConfig& config);
  /// Of the next step.
  [[nodiscard]] double value() const { return scale_; }
  /// After a step, with what all ranks found of its gradients: true where the scale was halved for it.
  [[nodiscard]] bool settle(bool finite);
  /// What a checkpoint keeps of it.
  [[nodiscard]] std::map<std::string, std::vector<double>> state() const;
  /// A checkpoint without a scale leaves the initial one; DataError when it holds none that can be used.
  void set_state(const std::map<std::string, std::vector<double>>& state);

 private:
  bool is_dynamic_;
  double scale_;
  int64_t finite_steps_ = 0;  ///< since it changed
};

}  // namespace dino
