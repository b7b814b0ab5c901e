// SPDX-License-Identifier: Apache-2.0
#include "comm/watchdog.hpp"

#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <string_view>
#include <thread>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/pending_io.hpp"
#include "base/retry.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "comm/board.hpp"
#include "comm/communicator.hpp"
#include "comm/last_words.hpp"

namespace dino {
namespace {

/// Between two looks: short against the second that a launcher leaves between the death of a rank and the
/// killing of the others, in which these still can tell who died where.
constexpr auto kPause = std::chrono::milliseconds(50);
/// A watching thread that has not run for this long says that the whole process does not.
constexpr double kSilentSeconds = 2;
/// Calls on files are mentioned in reports when they take longer than this.
constexpr double kSlowIoSeconds = 0.5;
constexpr std::string_view kRetrying = "retrying ";

/// What the main thread is doing, for the watching thread. `operation` is null outside of collectives.
struct Watch {
  std::atomic<const char*> operation{nullptr};
  std::atomic<const char*> last_operation{"none"};
  std::atomic<int64_t> since_ms{0};  ///< when `operation` began, or the last one ended
  std::atomic<int> rank{0}, ranks{1};
  std::atomic<bool> introduced{false}, left{false};
  double limit_seconds = 0;  ///< infinite: nothing counts as stalled
  double stop_seconds = 0;   ///< from a request to stop to the end; infinite: never
  bool watching = false;
};

/// Never destroyed: the watching thread outlives static destruction.
Watch& watched() {
  static Watch* instance = new Watch;
  return *instance;
}

const char* shown(const char* phase) {
  return *phase == '\0' ? "start" : phase;
}

[[noreturn]] void end_job(const Watch& s, ExitCode code) {
  // Time for the other ranks, whose clocks started a little later, to report too.
  if (s.ranks > 1) std::this_thread::sleep_for(std::chrono::seconds(2));
  leave_board();
  // Inside MPI_Init and MPI_Finalize there is nothing to abort; the launcher sees a rank that ends.
  if (s.ranks > 1 && s.introduced && !s.left) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code));
  _exit(static_cast<int>(code));
}

/// "rank 1 is outside of collectives for 12 s, in phase 'data wait' (reading /data/a.tar)"; empty for a rank
/// that waits as this one does.
std::string accuse(const Whereabouts& w, const std::string& operation, const std::string& phase) {
  std::string text;
  if (w.left) return text;
  if (w.dead) {
    text = fmt::format("rank {} is dead since phase '{}'", w.rank, shown(w.phase.c_str()));
  } else if (w.silent_seconds > kSilentSeconds) {
    text = fmt::format("the process of rank {} has not run for {} (stopped, or starved), in phase '{}'",
                       w.rank, human_seconds(w.silent_seconds), shown(w.phase.c_str()));
  } else if (w.operation.empty()) {
    text = fmt::format("rank {} is outside of collectives for {}, in phase '{}'", w.rank,
                       human_seconds(w.operation_seconds), shown(w.phase.c_str()));
  } else if (w.operation != operation || w.phase != phase) {
    text = fmt::format("rank {} waits in {} in phase '{}'", w.rank, w.operation, shown(w.phase.c_str()));
  }
  return text.empty() || w.detail.empty() ? text : text + " (" + w.detail + ")";
}

[[noreturn]] void report_stalled_collective(const Watch& s, const char* operation, double seconds) {
  const char* phase = log::current_phase();
  std::string missing;
  ExitCode code = ExitCode::internal;
  for (const Whereabouts& w : read_board()) {
    const std::string words = accuse(w, operation, phase);
    if (words.empty()) continue;
    missing += (missing.empty() ? "" : ", ") + words;
    // The rank itself will say so a moment later; the code shall not depend on who comes first.
    if (!w.detail.empty() && w.operation.empty()) code = ExitCode::io;
    // Those that still run write their own file; these cannot.
    if (w.dead || w.silent_seconds > kSilentSeconds || w.operation.empty())
      write_error_file(w.rank, w.phase.c_str(),
                       fmt::format("rank {} waited for it in {}: {}", s.rank.load(), operation, words));
  }
  if (missing.empty()) missing = "look for the rank of another node that reports another phase";
  const std::string line =
      fmt::format("collective stalled: {} in phase '{}': other ranks did not join it for {}; {}", operation,
                  shown(phase), human_seconds(seconds), missing);
  log::error(line);
  write_error_file(s.rank, phase, line);
  end_job(s, code);
}

[[noreturn]] void report_stalled_io(const Watch& s, const PendingIo& io) {
  const char* phase = io.phase != nullptr ? io.phase : log::current_phase();
  const std::string line =
      fmt::format("file system stalled: {} {}: no answer for {} in phase '{}'; look at the file system",
                  io.action, io.path, human_seconds(io.seconds), shown(phase));
  log::error(line);
  write_error_file(s.rank, phase, line);
  end_job(s, ExitCode::io);
}

/// A dead rank takes the launcher's word for it into the log, but not what it was doing.
[[noreturn]] void report_dead(const Watch& s, const std::vector<Whereabouts>& dead) {
  for (const Whereabouts& w : dead) {
    const std::string line = fmt::format(
        "rank died: rank {} of {}: its process ended in phase '{}' without a word (killed, out of memory, or "
        "crashed); see the launcher's message, and start again to go on",
        w.rank, s.ranks.load(), shown(w.phase.c_str()));
    log::error(line);
    write_error_file(w.rank, w.phase.c_str(), line);
  }
  end_job(s, ExitCode::internal);
}

/// Work that has no point of stopping, or none that comes in time. What is committed stays; MPI_Abort tells
/// the launcher the code even where other ranks wait for this one.
[[noreturn]] void end_stopped(const Watch& s) {
  if (s.rank == 0)
    log::warning(
        fmt::format("stopped early in phase '{}', {} after the signal; start the same command again to go on",
                    shown(log::current_phase()), human_seconds(stop_requested_seconds())));
  else  // whose clock may have started a little earlier than that of rank 0, which speaks for all
    std::this_thread::sleep_for(std::chrono::seconds(1));
  leave_board();
  if (s.ranks > 1 && s.introduced && !s.left) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::stopped));
  _exit(static_cast<int>(ExitCode::stopped));
}

/// A signal may reach one rank only.
void watch_stop_request(const Watch& s) {
  if (share_stop_request(stop_requested())) request_stop();
  if (!s.left && stop_requested_seconds() > s.stop_seconds && !finishing()) end_stopped(s);
}

/// This rank's row on the board. A call on a file is worth a word when it takes long.
void show_myself() {
  const Watch& s = watched();
  const PendingIo io = oldest_pending_io();
  const std::string retried = retrying_now();
  std::string detail = io.seconds > kSlowIoSeconds ? io.action + " " + io.path : std::string();
  if (!retried.empty()) detail = std::string(kRetrying) + retried;
  write_board(log::current_phase(), s.operation.load(), detail, s.since_ms.load());
}

/// A rank that tries a file again is at work, and says itself when it gives up.
bool another_retries() {
  for (const Whereabouts& w : read_board())
    if (!w.dead && w.silent_seconds < kSilentSeconds && w.detail.starts_with(kRetrying)) return true;
  return false;
}

/// Ranks of other nodes cannot be seen while they try a file again.
double collective_limit(const Watch& s) {
  const bool all_here = static_cast<int>(read_board().size()) + 1 >= s.ranks;
  return s.limit_seconds + (all_here ? 0 : retry_seconds());
}

void watch() {
  Watch& s = watched();
  int64_t reported = -1;
  int64_t awake_since = 0;  // time in which the whole job was suspended counts for nothing
  while (true) {
    const int64_t since = s.since_ms.load();
    const char* operation = s.operation.load();
    const char* phase = log::current_phase();
    show_myself();
    const int64_t before = steady_ms();
    std::this_thread::sleep_for(kPause);
    if (static_cast<double>(steady_ms() - before) > 1000 * kSilentSeconds) awake_since = steady_ms();
    watch_stop_request(s);
    if (std::isinf(s.limit_seconds)) continue;
    const double awake = static_cast<double>(steady_ms() - awake_since) / 1000.0;
    if (const auto dead = dead_neighbours(); !dead.empty() && !s.left) report_dead(s, dead);
    if (const PendingIo still = oldest_pending_io(); std::min(still.seconds, awake) > s.limit_seconds)
      report_stalled_io(s, still);
    const double seconds = std::min(static_cast<double>(steady_ms() - since) / 1000.0, awake);
    if (seconds < s.limit_seconds || since != s.since_ms.load()) continue;
    if (operation != nullptr && another_retries()) {
      s.since_ms = steady_ms();
      continue;
    }
    if (operation != nullptr && seconds < collective_limit(s)) continue;
    if (operation != nullptr) report_stalled_collective(s, operation, seconds);
    if (s.ranks == 1 || since == reported) continue;
    // This rank is the one that the others may be waiting for. It may be right to compute for so long alone,
    // so only say where it is.
    reported = since;
    log::warning(fmt::format("no collective for {}: in phase '{}', after {}", human_seconds(seconds),
                             shown(phase), s.last_operation.load()));
  }
}

}  // namespace

void start_watchdog(double limit_seconds, int rank, bool stops) {
  Watch& s = watched();
  if (s.watching) return;
  s.limit_seconds = limit_seconds > 0 ? limit_seconds : std::numeric_limits<double>::infinity();
  s.stop_seconds = stops ? stop_seconds() : std::numeric_limits<double>::infinity();
  s.rank = rank;
  s.since_ms = steady_ms();
  s.watching = true;
  std::thread(watch).detach();
}

void introduce_to_watchdog(const Communicator& world) {
  Watch& s = watched();
  open_board(world);
  s.rank = world.rank();
  s.ranks = world.size();
  s.introduced = true;
  // A rank that dies at once in a new phase has told it already.
  log::watch_phases(show_myself);
}

void leave_watchdog() {
  watched().left = true;
  leave_board();
}

WatchdogScope::WatchdogScope(const char* operation) {
  Watch& s = watched();
  s.since_ms = steady_ms();
  s.last_operation = operation;
  s.operation = operation;
}

WatchdogScope::~WatchdogScope() {
  Watch& s = watched();
  s.operation = nullptr;
  s.since_ms = steady_ms();
}

void WatchdogScope::progress() {
  watched().since_ms = steady_ms();
}

}  // namespace dino
