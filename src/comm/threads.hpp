// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside comm/ only: how many threads a rank uses.

#include <cstdint>

#include "comm/communicator.hpp"

namespace dino {

/// --threads, else OMP_NUM_THREADS, else this rank's share of the cores. Collective.
[[nodiscard]] int choose_threads(int64_t requested, const Communicator& world);
/// Remembers the choice and tells OpenMP, where the program has it.
void set_threads(int threads);
/// The remembered choice; outside of run_program, `requested` or the cores of the affinity mask.
[[nodiscard]] int chosen_threads(int64_t requested);

}  // namespace dino
