// SPDX-License-Identifier: Apache-2.0
#include "comm/watchdog.hpp"

#include <fmt/format.h>
#include <mpi.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"

namespace dino {
namespace {

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// What the main thread is doing, for the watching thread. `operation` is null outside of collectives.
struct State {
  std::atomic<const char*> operation{nullptr};
  std::atomic<const char*> last_operation{"none"};
  std::atomic<int64_t> since_ms{0};  ///< when `operation` began, or the last one ended
  int rank = 0;
  int ranks = 1;
  double limit_seconds = 0;
  std::string error_folder;
};

/// Never destroyed: the watching thread outlives static destruction.
State& state() {
  static State* instance = new State;
  return *instance;
}

double limit_from_environment() {
  const char* text = std::getenv("DINO_WATCHDOG_SECONDS");
  if (text == nullptr || *text == '\0') return 1800;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  if (*end != '\0' || !(seconds >= 0))
    throw UsageError(fmt::format(
        "bad environment: DINO_WATCHDOG_SECONDS: '{}' is not a number of seconds; 0 switches it off", text));
  return seconds;
}

[[noreturn]] void abort_job(const State& s, const char* operation, double seconds) {
  const char* phase = log::current_phase();
  const std::string line = fmt::format(
      "collective stalled: {} in phase '{}': other ranks did not join it for {}; look for the rank that "
      "reports another phase [rank {} of {}]",
      operation, *phase == '\0' ? "start" : phase, human_seconds(seconds), s.rank, s.ranks);
  log::error(line);
  write_error_file(s.rank, line);
  // Time for the other ranks, whose clocks started a little later, to report too.
  std::this_thread::sleep_for(std::chrono::seconds(2));
  MPI_Abort(MPI_COMM_WORLD, static_cast<int>(ExitCode::internal));
  _exit(static_cast<int>(ExitCode::internal));
}

void watch() {
  State& s = state();
  int64_t reported = -1;
  const auto pause = std::chrono::milliseconds(s.limit_seconds < 10 ? 50 : 1000);
  while (true) {
    std::this_thread::sleep_for(pause);
    const int64_t since = s.since_ms.load();
    const char* operation = s.operation.load();
    const double seconds = static_cast<double>(now_ms() - since) / 1000.0;
    if (seconds < s.limit_seconds || since != s.since_ms.load()) continue;
    if (operation != nullptr) abort_job(s, operation, seconds);
    if (since == reported) continue;
    // This rank is the one that the others may be waiting for. It may be right to compute for so long alone,
    // so only say where it is.
    reported = since;
    const char* phase = log::current_phase();
    log::warning(fmt::format("no collective for {}: in phase '{}', after {}", human_seconds(seconds),
                             *phase == '\0' ? "start" : phase, s.last_operation.load()));
  }
}

/// Starts the watching thread at the first collective of more than one rank; false when it is off.
bool start() {
  State& s = state();
  int initialised = 0;
  MPI_Initialized(&initialised);
  if (initialised == 0) return false;
  s.limit_seconds = limit_from_environment();
  MPI_Comm_rank(MPI_COMM_WORLD, &s.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &s.ranks);
  if (s.limit_seconds <= 0 || s.ranks == 1) return false;
  s.since_ms = now_ms();
  std::thread(watch).detach();
  return true;
}

/// True when collectives are watched.
bool watching() {
  static const bool on = start();
  return on;
}

}  // namespace

void start_watchdog() {
  (void)watching();
}

void set_error_folder(const std::string& output) {
  state().error_folder = output;
}

void write_error_file(int rank, const std::string& text) noexcept {
  const State& s = state();
  if (s.error_folder.empty()) return;
  try {
    // Only below a folder that is there: an --output that names a file, or a typing error, makes no folders.
    const std::string folder = s.error_folder + "/errors";
    ::mkdir(folder.c_str(), 0777);
    const std::string path = fmt::format("{}/rank_{}.txt", folder, rank);
    std::FILE* file = std::fopen(path.c_str(), "w");
    if (file == nullptr) return;
    std::fprintf(file, "time: %s\nrank: %d\nphase: %s\nerror: %s\n", utc_now().c_str(), rank,
                 log::failed_phase(), text.c_str());
    std::fclose(file);
  } catch (...) {
    return;
  }
}

WatchdogScope::WatchdogScope(const char* operation) {
  if (!watching()) return;
  State& s = state();
  s.since_ms = now_ms();
  s.last_operation = operation;
  s.operation = operation;
}

WatchdogScope::~WatchdogScope() {
  State& s = state();
  s.operation = nullptr;
  s.since_ms = now_ms();
}

}  // namespace dino
