// SPDX-License-Identifier: Apache-2.0
#include "replaced_samples.hpp"

#include <algorithm>
#include <cmath>

namespace dino::pretrain {

void ReplacedSamples::add(int64_t first, int64_t count, int64_t replaced) {
  samples_ += count;
  replaced_ += replaced;
  const int64_t begin = first / records_, end = (first + count - 1) / records_;
  if (begin != epoch_) {
    epoch_ = begin;
    samples_of_pass_ = replaced_of_pass_ = 0;
  }
  // A step over the end of a pass may meet an image of this pass and again in the next one: it counts for
  // neither, unless it is longer than a pass and holds its share of all.
  if (begin != end && count < records_) return;
  samples_of_pass_ += count;
  replaced_of_pass_ += replaced;
}

bool ReplacedSamples::too_many() const {
  constexpr double kDeviations = 5;
  constexpr int64_t kFew = 8;
  const auto share_of = [&](int64_t samples) { return limit_ * static_cast<double>(samples); };
  if (static_cast<double>(replaced_of_pass_) > share_of(std::max(records_, samples_of_pass_))) return true;
  const double excess = static_cast<double>(replaced_) - share_of(samples_);
  return replaced_ >= kFew && excess > kDeviations * std::sqrt(share_of(samples_) * (1 - limit_));
}

}  // namespace dino::pretrain
