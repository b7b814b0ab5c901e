// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside comm/ only: finds out, in bounded time, whether all ranks have failed.

#include <string>

#include "comm/communicator.hpp"

namespace dino {

/// Makes the communicator that the vote uses, so that it cannot meet another message. Collective.
void open_failure_vote(const Communicator& world);
/// Collective: frees it.
void close_failure_vote();

struct FailureVote {
  bool all_failed = false;  ///< every rank came here within a second: all may leave through MPI_Finalize
  bool same = false;        ///< and with the same code and message
  int code = 0;             ///< the lowest rank's, same on all ranks
};
[[nodiscard]] FailureVote vote_on_failure(int code, const std::string& message);

}  // namespace dino
