// SPDX-License-Identifier: Apache-2.0
#include "base/signals.hpp"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <initializer_list>

#include "base/error.hpp"

namespace dino {
namespace {

/// Monotonic nanoseconds of the first request; 0 = none.
std::atomic<int64_t> requested_at{0};
static_assert(std::atomic<int64_t>::is_always_lock_free, "a signal handler writes it");
std::atomic<int> finishing_scopes{0};

int64_t now_ns() noexcept {
  struct timespec now {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

void on_signal(int) {
  request_stop();
}

}  // namespace

void install_stop_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM}) sigaction(signal, &action, nullptr);
  // A second Ctrl-C ends the program at once, as people at a terminal expect.
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
}

bool stop_requested() noexcept {
  return requested_at.load(std::memory_order_relaxed) != 0;
}

double stop_requested_seconds() noexcept {
  const int64_t at = requested_at.load(std::memory_order_relaxed);
  return at == 0 ? -1 : static_cast<double>(now_ns() - at) * 1e-9;
}

void request_stop() noexcept {
  int64_t none = 0;
  requested_at.compare_exchange_strong(none, now_ns());
}

double stop_seconds() {
  constexpr double kUsual = 7;
  const char* text = std::getenv("DINO_STOP_SECONDS");
  if (text == nullptr || *text == '\0') return kUsual;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  return *end == '\0' && seconds >= 0 ? seconds : kUsual;
}

void clear_stop_request() noexcept {
  requested_at = 0;
}

void stop_here() {
  if (stop_requested()) throw_stopped();
}

void throw_stopped() {
  throw Error(ExitCode::stopped,
              "stopped early: a signal asked for it; start the same command again to go on");
}

FinishingScope::FinishingScope() noexcept {
  ++finishing_scopes;
}
FinishingScope::~FinishingScope() {
  --finishing_scopes;
}
bool finishing() noexcept {
  return finishing_scopes.load() > 0;
}

}  // namespace dino
