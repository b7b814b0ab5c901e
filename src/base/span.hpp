// SPDX-License-Identifier: Apache-2.0
#pragma once
// Where a thread's time goes, for whoever listens on it; while nobody does, a span costs the reading of one
// pointer.

#include <chrono>
#include <cstdint>

namespace dino {

using SpanClock = std::chrono::steady_clock;

class SpanListener {
 public:
  virtual ~SpanListener() = default;
  struct Told {
    const char* category;  ///< "phase"; of collectives "wait", "control", and "transfer" for what is under
                           ///< way beside the thread's own spans
    const char* name;
    SpanClock::time_point begin, end;
    int64_t bytes;  ///< -1 = of nothing
    /// What it was on, beside the thread: "GPU". Null: the thread.
    const char* track = nullptr;
  };
  /// When a span ends: inner ones come before the outer one. Of another track later, by their beginnings.
  /// Must not throw.
  virtual void span(const Told& told) noexcept = 0;
};

/// On the calling thread, in place of who listened before; null: nobody.
void listen_to_spans(SpanListener* listener);
[[nodiscard]] bool spans_are_heard();
void tell_span(const SpanListener::Told& told);

/// From construction to destruction; nested as scopes are.
class Span {
 public:
  explicit Span(const char* name, const char* category = "phase", int64_t bytes = -1);
  ~Span();
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  const char *name_, *category_;
  int64_t bytes_;
  bool heard_;
  SpanClock::time_point begin_{};
};

}  // namespace dino
