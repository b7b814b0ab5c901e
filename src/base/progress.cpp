// SPDX-License-Identifier: Apache-2.0
#include "base/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/log.hpp"
#include "base/timing.hpp"

namespace dino {
namespace {

enum class Mode { off, plain, live };

Mode mode = Mode::off;
constexpr double kLiveSeconds = 0.2;
constexpr double kPlainSeconds = 10.0;
constexpr double kFirstPlainSeconds = 2.0;  ///< a log shows soon that there is progress, and how much
constexpr double kRecentSeconds = 30.0;
constexpr double kSampleSeconds = 1.0;

double between(std::chrono::steady_clock::time_point from, std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void configure_progress(ProgressStyle wanted, int rank) {
  const char* terminal = std::getenv("TERM");
  // Under mpirun and `dino-jobs local` stderr is a pipe to a terminal; who started us knows.
  const bool at_terminal = ::isatty(STDERR_FILENO) != 0 || std::getenv("DINO_LIVE_PROGRESS") != nullptr;
  const bool live = at_terminal && terminal != nullptr && std::string_view(terminal) != "dumb";
  if (rank != 0 || wanted == ProgressStyle::off)
    mode = Mode::off;
  else
    mode = wanted == ProgressStyle::automatic && live ? Mode::live : Mode::plain;
  log::stamp_information(mode == Mode::plain || !at_terminal);
}

void RecentRate::add(double seconds, int64_t done) {
  if (seconds - samples_.back().seconds < kSampleSeconds) return;
  samples_.push_back({seconds, done});
  while (samples_.size() > 1 && seconds - samples_[1].seconds >= kRecentSeconds) samples_.pop_front();
}

double RecentRate::at(double seconds, int64_t done) const {
  const Sample& from = samples_.front();
  return seconds > from.seconds ? static_cast<double>(done - from.done) / (seconds - from.seconds) : 0.0;
}

Progress::Progress(std::string stage, int64_t total, std::string unit)
    : stage_(std::move(stage)),
      unit_(std::move(unit)),
      total_(total),
      start_(std::chrono::steady_clock::now()),
      printed_(start_) {}

Progress::~Progress() {
  // A stage that is left by an exception keeps its last line, but does not claim to be done.
  if (!finished_ && mode == Mode::live) std::fputc('\n', stderr);
}

void Progress::add(int64_t done) {
  set(done_ + done);
}

void Progress::set(int64_t done) {
  done_ = done;
  if (mode == Mode::off) return;
  const auto now = std::chrono::steady_clock::now();
  recent_.add(between(start_, now), done_);
  const double wait = mode == Mode::live ? kLiveSeconds : said_ ? kPlainSeconds : kFirstPlainSeconds;
  if (between(printed_, now) >= wait) print(false);
}

void Progress::start_at(int64_t done) {
  begun_at_ = done_ = done;
  recent_ = RecentRate(done);
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  if (mode != Mode::off) print(true);
}

void Progress::print(bool last) {
  const auto now = std::chrono::steady_clock::now();
  printed_ = now;
  said_ = true;
  const double seconds = between(start_, now);
  const double whole = seconds > 0 ? static_cast<double>(done_ - begun_at_) / seconds : 0.0;
  const double rate = last ? whole : recent_.at(seconds, done_);
  std::string line = fmt::format("{}: {}", stage_, done_);
  if (total_ >= 0) line += fmt::format("/{}", total_);
  line += fmt::format(" {}, {:.{}f}/s", unit_, rate, rate < 10 ? 2 : 0);
  if (last)
    line += fmt::format(", {}", human_seconds(seconds));
  else if (total_ > done_ && rate > 0)
    line += fmt::format(", {} left", human_seconds(static_cast<double>(total_ - done_) / rate));
  line += fmt::format(", {}", human_bytes(current_rss_bytes()));
  if (!note_.empty()) line += ", " + note_;
  if (mode == Mode::plain) {
    log::info(line);
    return;
  }
  // Clear to the end of the line, so that a shorter line leaves nothing of a longer one.
  const std::string live = "\r" + line + "\033[K" + (last ? "\n" : "");
  std::fwrite(live.data(), 1, live.size(), stderr);
  std::fflush(stderr);
}

}  // namespace dino
