// SPDX-License-Identifier: Apache-2.0
#pragma once
// Names the rank and phase when a collective, or a call on a file, stalls, or when a rank of this node dies;
// then ends the job, so that no job hangs until its time limit. Also sees to it that a request to stop
// reaches all ranks of the node, and that a program which does not come to its next point of stopping ends
// with 75.

#include <string>

namespace dino {

class Communicator;

/// Starts the watching thread; `limit_seconds` 0 = nothing counts as stalled. `rank` as the launcher says,
/// until MPI is up. `stops`: end the program stop_seconds() after a request to stop.
void start_watchdog(double limit_seconds, int rank, bool stops);
/// Collective, after MPI_Init: from now on the ranks of a node see each other.
void introduce_to_watchdog(const Communicator& world);
/// This rank leaves in order: nobody shall take that for a death. Idempotent.
void leave_watchdog();

/// Marks the time a blocking collective takes; made by Communicator around each call.
class WatchdogScope {
 public:
  explicit WatchdogScope(const char* operation);
  ~WatchdogScope();
  WatchdogScope(const WatchdogScope&) = delete;
  WatchdogScope& operator=(const WatchdogScope&) = delete;
  /// The collective got further: its clock starts again.
  static void progress();
};

}  // namespace dino
