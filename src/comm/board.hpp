// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside comm/ only: a table in shared memory in which the ranks of a node say where they are. A rank that is
// stopped or dead cannot say so itself; its neighbours read its last words here.

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.hpp"

namespace dino {

/// One rank's row as another rank reads it.
struct Whereabouts {
  int rank = 0;                          ///< in the world
  std::string phase, operation, detail;  ///< operation is empty outside of collectives
  double operation_seconds = 0;          ///< in the collective, or since the last one
  double silent_seconds = 0;             ///< since it last wrote, as its watching thread does all the time
  bool left = false;                     ///< it is on its orderly way out
  bool dead = false;                     ///< its process is gone
};

/// Collective. Without shared memory there is no board: the ranks of a node are then strangers.
void open_board(const Communicator& world);
/// Any thread; `since_ms` as steady_clock's milliseconds.
void write_board(const char* phase, const char* operation, const std::string& detail, int64_t since_ms);
/// Any thread: whether this rank (`mine`) or another of this node was asked to stop.
[[nodiscard]] bool share_stop_request(bool mine);
/// From now on this rank may vanish without being missed.
void leave_board();
/// The other ranks of this node.
[[nodiscard]] std::vector<Whereabouts> read_board();
/// Only the next rank of this node and those behind it that are dead: what each rank watches, so that many
/// ranks do not all watch each other.
[[nodiscard]] std::vector<Whereabouts> dead_neighbours();

}  // namespace dino
