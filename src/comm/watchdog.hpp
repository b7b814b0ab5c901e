// SPDX-License-Identifier: Apache-2.0
#pragma once
// Names the rank and phase when a collective stalls, then aborts the job, so that no job hangs until its time
// limit. The limit is DINO_WATCHDOG_SECONDS (default 1800; 0 = off).

namespace dino {

/// Marks the time a blocking collective takes; made by Communicator around each call.
class WatchdogScope {
 public:
  explicit WatchdogScope(const char* operation);
  ~WatchdogScope();
  WatchdogScope(const WatchdogScope&) = delete;
  WatchdogScope& operator=(const WatchdogScope&) = delete;
};

}  // namespace dino
