// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside comm/ only: ranks on different machines compute by one path.

#include "comm/communicator.hpp"

namespace dino {

/// Lowers every rank's choice of kernels (base/cpu.hpp) to what all of them have, and says so in the log.
/// Before anything is computed. Collective.
void agree_on_cpu(const Communicator& world);

}  // namespace dino
