// SPDX-License-Identifier: Apache-2.0
#include "training/loss_scale.hpp"

#include <algorithm>

#include "base/error.hpp"

namespace dino {
namespace {

constexpr const char* kName = "loss_scale";

}  // namespace

LossScale::LossScale(const TrainingConfig& config)
    : is_dynamic_(config.precision == Precision::f16 || config.reduce_precision == Precision::f16),
      scale_(is_dynamic_ ? config.loss_scale : 1) {}

bool LossScale::settle(bool finite) {
  if (!is_dynamic_) return false;
  if (!finite) {
    finite_steps_ = 0;
    const double before = scale_;
    scale_ = std::max(scale_ / 2, kLeast);
    return scale_ < before;
  }
  if (++finite_steps_ == kGrowthSteps) {
    finite_steps_ = 0;
    scale_ = std::max(scale_, std::min(2 * scale_, kMost));
  }
  return false;
}

std::map<std::string, std::vector<double>> LossScale::state() const {
  if (!is_dynamic_) return {};
  return {{kName, {scale_, static_cast<double>(finite_steps_)}}};
}

void LossScale::set_state(const std::map<std::string, std::vector<double>>& state) {
  const auto found = state.find(kName);
  if (!is_dynamic_ || found == state.end()) return;
  const std::vector<double>& values = found->second;
  if (values.size() != 2 || !(values[0] >= kLeast && values[0] <= kMostGiven) ||
      !(values[1] >= 0 && values[1] < kGrowthSteps))
    throw DataError(
        "cannot restore the loss scale: \"loss_scale\": not a scale and a number of steps; start "
        "from another checkpoint");
  scale_ = values[0];
  finite_steps_ = static_cast<int64_t>(values[1]);
}

}  // namespace dino
