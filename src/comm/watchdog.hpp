// SPDX-License-Identifier: Apache-2.0
#pragma once
// Names the rank and phase when a collective stalls, then aborts the job, so that no job hangs until its time
// limit. The limit is DINO_WATCHDOG_SECONDS (default 1800; 0 = off).

#include <string>

namespace dino {

/// Where errors/rank_N.txt goes; empty (the default) = nowhere. Set once by run_program, from --output.
void set_error_folder(const std::string& output);
/// Writes <output>/errors/rank_N.txt, if an output folder is set. Never throws: it runs while dying.
void write_error_file(int rank, const std::string& text) noexcept;

/// Starts the watching thread (otherwise the first collective does); needs MPI.
void start_watchdog();

/// Marks the time a blocking collective takes; made by Communicator around each call.
class WatchdogScope {
 public:
  explicit WatchdogScope(const char* operation);
  ~WatchdogScope();
  WatchdogScope(const WatchdogScope&) = delete;
  WatchdogScope& operator=(const WatchdogScope&) = delete;
};

}  // namespace dino
