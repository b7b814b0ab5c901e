// SPDX-License-Identifier: Apache-2.0
#pragma once
// One live line per stage on a terminal (done, rate, ETA, memory); in a batch log a line every few seconds,
// with the time; nothing with `off`. The rate on the way is that of the last half minute.

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "base/names.hpp"

namespace dino {

/// How progress is shown; `automatic`: live on a terminal, else plain.
enum class ProgressStyle : uint8_t { automatic, plain, off };
constexpr auto names_of(ProgressStyle) {
  return std::to_array<Named<ProgressStyle>>(
      {{"auto", ProgressStyle::automatic}, {"plain", ProgressStyle::plain}, {"off", ProgressStyle::off}});
}

/// Called once by run_program. Ranks other than 0 are always off. Where stderr is
/// no live terminal, information is stamped with the time (base/log.hpp).
void configure_progress(ProgressStyle wanted, int rank);

/// The rate of the last half minute, from counts that come whenever they come.
class RecentRate {
 public:
  explicit RecentRate(int64_t begun_at) : samples_{{0, begun_at}} {}
  void add(double seconds, int64_t done);  ///< seconds since the beginning, ascending
  /// Things a second up to now; 0 at the beginning.
  [[nodiscard]] double at(double seconds, int64_t done) const;

 private:
  struct Sample {
    double seconds;
    int64_t done;
  };
  std::deque<Sample> samples_;  ///< about one a second; the oldest is the newest that is half a minute old
};

class Progress {
 public:
  /// `total` < 0 = unknown. Times are wall clock.
  Progress(std::string stage, int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// So much was done by an earlier start: it counts for no rate.
  void start_at(int64_t done);
  /// Not thread-safe: call it from the thread that made it.
  void add(int64_t done);
  void set(int64_t done);
  /// Extra text at the end of the line (a loss, say).
  void note(std::string text) { note_ = std::move(text); }
  void finish();

 private:
  void print(bool last);
  std::string stage_, unit_, note_;
  int64_t total_, done_ = 0, begun_at_ = 0;
  std::chrono::steady_clock::time_point start_, printed_;
  RecentRate recent_{0};
  bool finished_ = false, said_ = false;
};

}  // namespace dino
