// SPDX-License-Identifier: Apache-2.0
#pragma once
// SIGUSR2, SIGUSR1, SIGTERM and SIGINT ask for an early, resumable stop (exit code 75). The handler only sets
// a flag. Loops over ranks ask at their work-unit boundaries and agree on it (Communicator::any,
// KeepingPace); long work of one rank gives up with stop_here(). What does neither in time is ended by the
// watching thread (comm/watchdog.hpp): whatever is committed stays, as after a kill.

namespace dino {

/// How long after the request a program that has not ended by itself is ended: DINO_STOP_SECONDS, or 7.
[[nodiscard]] double stop_seconds();

void install_stop_handlers();
[[nodiscard]] bool stop_requested() noexcept;
/// Since the request; negative when there is none.
[[nodiscard]] double stop_requested_seconds() noexcept;
/// For tests, for wall-time limits, and for what another rank of this node was asked.
void request_stop() noexcept;
void clear_stop_request() noexcept;

/// Throws the Error of exit code 75 when a stop was requested. Not below anything that takes an Error for a
/// verdict on what it reads.
void stop_here();
/// The same when the ranks have agreed on it.
[[noreturn]] void throw_stopped();

/// While one lives, the program is leaving what a stop is to leave (a step and its checkpoint): it is given
/// the time.
class FinishingScope {
 public:
  FinishingScope() noexcept;
  ~FinishingScope();
  FinishingScope(const FinishingScope&) = delete;
  FinishingScope& operator=(const FinishingScope&) = delete;
};
[[nodiscard]] bool finishing() noexcept;

}  // namespace dino
