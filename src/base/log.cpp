// SPDX-License-Identifier: Apache-2.0
#include "base/log.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <ctime>
#include <exception>
#include <string>
#include <utility>

#include "base/text.hpp"

namespace dino::log {
namespace {

struct Settings {
  std::string program = "dino";
  int rank = 0;
  int ranks = 1;
  bool stamped = false;
};

Settings& settings() {
  static Settings instance;
  return instance;
}

/// Read by the watchdog thread too.
std::atomic<const char*> phase{""};
/// The innermost phase left by an exception; null when the next phase has begun since.
std::atomic<const char*> left_phase{nullptr};

std::atomic<void (*)()> phase_changed{nullptr};

thread_local const char* phase_of_thread = nullptr;

void tell_phase() {
  if (const auto changed = phase_changed.load(); changed != nullptr) changed();
}

std::string local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  if (::localtime_r(&now, &parts) == nullptr) return {};
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S ", &parts)};
}

/// One write(2) a line, so that lines of several ranks do not mix.
void put(std::string_view kind, std::string_view line, bool with_rank) {
  const Settings& s = settings();
  std::string text = kind.empty() && s.stamped ? local_time() : std::string();
  text += s.program + ": ";
  text += kind;
  // Lines may quote names of files and keys: no byte of theirs moves the cursor or begins another line.
  text += printable_line(line);
  if (with_rank && s.ranks > 1) text += fmt::format(" [rank {} of {}]", s.rank, s.ranks);
  text += '\n';
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data() + done, text.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

}  // namespace

void configure(std::string_view program, int rank, int ranks) {
  settings() = {std::string(program), rank, ranks, settings().stamped};
}

void stamp_information(bool on) {
  settings().stamped = on;
}

void info(std::string_view line) {
  if (settings().rank == 0) put("", line, false);
}

void warning(std::string_view line) {
  put("warning: ", line, true);
}

void error(std::string_view line) {
  put("error: ", line, true);
}

Phase::Phase(const char* name)
    : span_(name), outer_(phase.exchange(name)), exceptions_(std::uncaught_exceptions()) {
  left_phase.store(nullptr);
  tell_phase();
}

Phase::~Phase() {
  const char* mine = phase.exchange(outer_);
  if (std::uncaught_exceptions() > exceptions_ && left_phase.load() == nullptr) left_phase.store(mine);
  tell_phase();
}

ThreadPhase::ThreadPhase(const char* name) : outer_(std::exchange(phase_of_thread, name)) {}

ThreadPhase::~ThreadPhase() {
  phase_of_thread = outer_;
}

const char* thread_phase() {
  return phase_of_thread;
}

const char* current_phase() {
  return phase.load();
}

void watch_phases(void (*changed)()) {
  phase_changed = changed;
}

const char* failed_phase() {
  const char* left = left_phase.load();
  return left != nullptr ? left : phase.load();
}

}  // namespace dino::log
