// SPDX-License-Identifier: Apache-2.0
#pragma once
// One live line per stage on a terminal (done, rate, ETA, memory); in a batch log a line every few seconds;
// nothing with `off`.

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace dino {

/// "auto", "plain" or "off"; called once by run_program. Ranks other than 0 are always off.
void configure_progress(std::string_view mode, int rank);

class Progress {
 public:
  /// `total` < 0 = unknown. Times are wall clock.
  Progress(std::string stage, int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Not thread-safe: call it from the thread that made it.
  void add(int64_t done);
  void set(int64_t done);
  /// Extra text at the end of the line (a loss, say).
  void note(std::string text) { note_ = std::move(text); }
  void finish();

 private:
  void print(bool last);
  std::string stage_, unit_, note_;
  int64_t total_, done_ = 0;
  std::chrono::steady_clock::time_point start_, printed_;
  bool finished_ = false;
};

}  // namespace dino
