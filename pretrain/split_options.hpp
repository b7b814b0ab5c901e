// SPDX-License-Identifier: Apache-2.0
#pragma once
// How a step is spread over ranks and time, as options.

#include "base/options.hpp"
#include "comm/communicator.hpp"
#include "training/config.hpp"

namespace dino::pretrain {

[[nodiscard]] Schema<SplitConfig> split_options();
/// Chooses what was left open, and checks the settings against the ranks and the images of a step.
/// UsageError. Collective.
void settle_split(SplitConfig& split, int64_t batch, const Communicator& world);

}  // namespace dino::pretrain
