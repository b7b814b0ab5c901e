// SPDX-License-Identifier: Apache-2.0
#include "replaced_samples.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace dino::pretrain {

void count_replaced(ReplacedCounts& counts, DecodeStatus status) {
  if (status != DecodeStatus::ok) ++counts[static_cast<size_t>(status) - 1];
}

int64_t total(const ReplacedCounts& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

const char* cause_name(size_t index) {
  return name_of(static_cast<DecodeStatus>(index + 1));
}

std::string text_of(const ReplacedCounts& counts) {
  std::string text;
  for (size_t i = 0; i < counts.size(); ++i)
    if (counts[i] > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", counts[i], cause_name(i));
  return text;
}

Replaced& Replaced::operator+=(const ReplacedCounts& counts) {
  samples += total(counts);
  for (size_t i = 0; i < counts.size(); ++i) by_cause[i] += counts[i];
  return *this;
}

void ReplacedSamples::add(int64_t first, int64_t count, const ReplacedCounts& by_cause) {
  const int64_t replaced = total(by_cause);
  samples_ += count;
  replaced_ += by_cause;
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
  const double excess = static_cast<double>(replaced()) - share_of(samples_);
  return replaced() >= kFew && excess > kDeviations * std::sqrt(share_of(samples_) * (1 - limit_));
}

}  // namespace dino::pretrain
