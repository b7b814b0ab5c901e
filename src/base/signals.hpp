// SPDX-License-Identifier: Apache-2.0
#pragma once
// SIGUSR2, SIGUSR1, SIGTERM and SIGINT ask for an early, resumable stop (exit code 75). The handler only sets
// a flag; loops ask at their work-unit boundaries and agree on it through a collective (Communicator::any).

namespace dino {

void install_stop_handlers();
[[nodiscard]] bool stop_requested() noexcept;
/// For tests and for wall-time limits.
void request_stop() noexcept;
void clear_stop_request() noexcept;

}  // namespace dino
