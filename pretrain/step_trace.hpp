// SPDX-License-Identifier: Apache-2.0
#pragma once
// RUN/trace/rank_N.json: where the time of a rank's steps went, in the Trace Event Format that
// chrome://tracing and Perfetto open. Phases, the wait for data, checkpoints and blocking collectives lie
// within one another on one track; collectives under way beside the computing are events of their own. What a
// GPU did, its phases and its waits for collectives, is a second track: on the first one, phases are then the
// enqueuing of their work.

#include <cstdint>
#include <string>
#include <vector>

#include "base/span.hpp"

namespace dino::pretrain {

class StepTrace final : public SpanListener {
 public:
  /// Listens on this thread until its end.
  StepTrace(int rank, int64_t steps);
  ~StepTrace() override;
  StepTrace(const StepTrace&) = delete;
  StepTrace& operator=(const StepTrace&) = delete;

  /// The name of the span that is a step.
  static constexpr const char* kStep = "step";
  /// Events that are kept; later ones are counted.
  static constexpr size_t kMost = 200'000;

  void span(const Told& told) noexcept override;
  /// All its steps have ended.
  [[nodiscard]] bool complete() const { return left_ <= 0; }
  /// IoError.
  void write(const std::string& folder) const;

 private:
  [[nodiscard]] std::string text() const;
  int rank_;
  int64_t left_;
  int64_t lost_ = 0;
  SpanClock::time_point start_ = SpanClock::now();
  std::vector<Told> events_;
};

}  // namespace dino::pretrain
