// SPDX-License-Identifier: Apache-2.0
#pragma once
// Collectives among ranks that are not there.

#include <cstdint>
#include <memory>

#include "comm/collective.hpp"
#include "comm/communicator.hpp"

namespace dino {

/// Rank 0 of `ranks`, whose values each of them is taken to have: every operation is done at once, and a rank
/// does its own share of it (what arrives is written, its piece of a sum is added up) where the tensor is the
/// host's; elsewhere nothing is touched. `received` (which must outlive it)
/// counts the bytes that a rank would receive in the groups that are split off, by algorithms that send
/// nothing twice: (P - 1) / P of a tensor that is gathered or scattered over P ranks, twice that of a sum.
/// Collective over `here`, each of whose ranks does the same: an operation on tensors of the host is over
/// when all of them have come to it, as it would be among the ranks that are not there.
[[nodiscard]] std::unique_ptr<Collective> make_absent_ranks(int ranks, const Communicator& here,
                                                            int64_t& received);

}  // namespace dino
