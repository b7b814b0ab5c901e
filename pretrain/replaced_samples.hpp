// SPDX-License-Identifier: Apache-2.0
#pragma once
// Counts the samples whose images cannot be decoded, and tells when they are too many: a training on the few
// images that are left would look like one on all.

#include <array>
#include <cstdint>
#include <string>

#include "imaging/image.hpp"

namespace dino::pretrain {

/// By cause: DecodeStatus not_an_image, truncated, ...
using ReplacedCounts = std::array<int64_t, static_cast<size_t>(DecodeStatus::memory)>;
/// Nothing for ok.
void count_replaced(ReplacedCounts& counts, DecodeStatus status);
[[nodiscard]] int64_t total(const ReplacedCounts& counts);
/// The name of the cause at this place of the counts, as in messages on one image.
[[nodiscard]] const char* cause_name(size_t index);
/// "2 truncated, 1 corrupt": causes that occur.
[[nodiscard]] std::string text_of(const ReplacedCounts& counts);

/// Of a run; one begun by a version that did not count causes has more samples than they sum to.
struct Replaced {
  int64_t samples = 0;
  ReplacedCounts by_cause{};
  Replaced& operator+=(const ReplacedCounts& counts);
};

class ReplacedSamples {
 public:
  /// `limit`: the share of the images that may be broken.
  ReplacedSamples(int64_t records, double limit) : records_(records), limit_(limit) {}
  /// One step of the global batch, samples [first, first + count).
  void add(int64_t first, int64_t count, const ReplacedCounts& by_cause);
  /// More than the share of one pass over the images, or so many that chance does not explain them.
  [[nodiscard]] bool too_many() const;
  [[nodiscard]] int64_t replaced() const { return replaced_.samples; }
  [[nodiscard]] const ReplacedCounts& by_cause() const { return replaced_.by_cause; }
  [[nodiscard]] int64_t samples() const { return samples_; }

 private:
  int64_t records_;
  double limit_;
  int64_t samples_ = 0;
  Replaced replaced_;
  int64_t epoch_ = -1, samples_of_pass_ = 0, replaced_of_pass_ = 0;
};

}  // namespace dino::pretrain
