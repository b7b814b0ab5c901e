// SPDX-License-Identifier: Apache-2.0
#pragma once
// Counts the samples whose images cannot be decoded, and tells when they are too many: a training on the few
// images that are left would look like one on all.

#include <cstdint>

namespace dino::pretrain {

class ReplacedSamples {
 public:
  /// `limit`: the share of the images that may be broken.
  ReplacedSamples(int64_t records, double limit) : records_(records), limit_(limit) {}
  /// One step of the global batch, samples [first, first + count).
  void add(int64_t first, int64_t count, int64_t replaced);
  /// More than the share of one pass over the images, or so many that chance does not explain them.
  [[nodiscard]] bool too_many() const;
  [[nodiscard]] int64_t replaced() const { return replaced_; }
  [[nodiscard]] int64_t samples() const { return samples_; }

 private:
  int64_t records_;
  double limit_;
  int64_t samples_ = 0, replaced_ = 0;
  int64_t epoch_ = -1, samples_of_pass_ = 0, replaced_of_pass_ = 0;
};

}  // namespace dino::pretrain
