// SPDX-License-Identifier: Apache-2.0
#include "base/retry.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "base/log.hpp"
#include "base/signals.hpp"

namespace dino {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kFirstPause = 0.05, kLongestPause = 2;
/// Between two looks for a request to stop.
constexpr auto kSlice = std::chrono::milliseconds(50);

struct State {
  std::atomic<double> seconds{30};
  std::mutex mutex;  ///< of what follows
  int waiting = 0;
  std::string path;                    ///< that was waited for last
  std::unordered_set<size_t> told;     ///< hashes of the paths that were logged
  Clock::time_point hopeless_until{};  ///< one file was given up: the others need not be waited for
};

/// Never destroyed: the watching thread reads it while static objects go.
State& state() {
  static auto* instance = new State;
  return *instance;
}

thread_local int depth = 0;

/// Shows this thread as waiting, for as long as it lives.
class Waiting {
 public:
  explicit Waiting(const std::string& path) {
    State& s = state();
    const std::lock_guard lock(s.mutex);
    ++s.waiting;
    s.path = path;
  }
  ~Waiting() {
    State& s = state();
    const std::lock_guard lock(s.mutex);
    --s.waiting;
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
};

/// False when this file was told before.
bool remember(const std::string& path) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return s.told.insert(std::hash<std::string>{}(path)).second;
}

bool hopeless() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return Clock::now() < s.hopeless_until;
}

void give_up(double seconds) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.hopeless_until = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(std::min(seconds, 1e6)));
}

}  // namespace

void set_retry_seconds(double seconds) {
  State& s = state();
  s.seconds = seconds;
  const std::lock_guard lock(s.mutex);
  s.hopeless_until = {};
  s.told.clear();
}

double retry_seconds() {
  return state().seconds;
}

bool is_passing_fault(int error) {
  switch (error) {
    case EIO:
    case ESTALE:
    case ENOTCONN:
    case ETIMEDOUT:
    case EINTR:
    case EAGAIN:
    case EBUSY:
    case EREMOTEIO:
    case ENODEV:
    case ENXIO:
    case ESHUTDOWN:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ENETUNREACH:
    case ECONNREFUSED:
    case ECONNRESET:
    case ECONNABORTED:
    case EPROTO:
    case ENFILE:
    case EMFILE:
    case ENOLCK:
      return true;
    default:
      return false;
  }
}

bool is_lost_file(int error) {
  return error == ENOENT || error == EACCES || error == EPERM || error == ENOTDIR || error == ELOOP;
}

std::string retrying_now() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return s.waiting > 0 ? s.path : std::string();
}

Retry::Retry(const std::string& path) : path_(path), begin_(Clock::now()) {
  ++depth;
}

Retry::~Retry() {
  --depth;
}

void Retry::pause_or_give_up(const IoError& error) {
  const double limit = retry_seconds();
  if (depth > 1 || limit <= 0) throw;
  const std::chrono::duration<double> elapsed = Clock::now() - begin_;
  if (elapsed.count() >= limit || hopeless()) {
    give_up(limit);
    throw IoError(fmt::format("{}; tried again for {:.3g} s (--retry-seconds): mend it, then start again",
                              error.what(), elapsed.count()));
  }
  if (remember(path_))
    log::warning(fmt::format("retrying for up to {:.3g} s (--retry-seconds): {}", limit, error.what()));
  pause_ = std::clamp(2 * pause_, kFirstPause, kLongestPause);
  const Waiting waiting(path_);
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(
                                      std::min(pause_, limit - elapsed.count())));
  while (Clock::now() < end) {
    if (stop_requested())
      throw Error(
          ExitCode::stopped,
          fmt::format("stopped while a file was tried again: {}; start again to go on", error.what()));
    std::this_thread::sleep_for(std::min<Clock::duration>(kSlice, end - Clock::now()));
  }
}

}  // namespace dino
