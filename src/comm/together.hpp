// SPDX-License-Identifier: Apache-2.0
#pragma once
// Work that all ranks do, or that rank 0 does for them: a failure on one rank is the same exception on all,
// so that none is left behind in a collective.

#include <functional>
#include <string>

#include "comm/communicator.hpp"

namespace dino {

/// What one rank's part of common work failed with; no message: it did not fail.
struct RankFailure {
  std::string message;
  int code = 0;  ///< ExitCode
};

/// Runs `body` on this rank alone and keeps the Error that it throws. Other exceptions are defects, or want
/// of memory; they take the job down.
[[nodiscard]] RankFailure failure_of(const std::function<void()>& body);

/// Collective: throws the lowest failing rank's failure on every rank, as the Error of its exit code; I/O and
/// internal errors name the rank.
void settle(const Communicator& comm, const RankFailure& failure);

/// Runs `body` on every rank, then settles its failures: for bodies without a collective. Collective.
void together(const Communicator& comm, const std::function<void()>& body);

/// Runs `body` on rank 0, with still_working() setting back the clock of the ranks that wait; its failure is
/// thrown on every rank. Collective.
void on_root(const Communicator& comm, const std::function<void()>& body);

}  // namespace dino
