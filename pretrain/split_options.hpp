// SPDX-License-Identifier: Apache-2.0
#pragma once
// How a step is spread over ranks and time, as options.

#include "base/options.hpp"
#include "comm/communicator.hpp"
#include "training/config.hpp"

namespace dino::pretrain {

[[nodiscard]] Schema<SplitConfig> split_options();
/// UsageError where the ranks do not make groups.
void check_groups(const SplitConfig& split, int ranks);
/// Chooses the groups that were left open, and checks them. Collective.
void settle_groups(SplitConfig& split, const Communicator& world);
/// UsageError where some micro-batch of some rank would have no image.
void check_pieces(const SplitConfig& split, int64_t batch, int ranks);

}  // namespace dino::pretrain
