// SPDX-License-Identifier: Apache-2.0
#pragma once
// A data reference that every rank opens for itself.

#include <string>

#include "comm/communicator.hpp"
#include "datasets/dataset.hpp"

namespace dino {

/// open_dataset on every rank; rank 0's errors are everybody's. A rank that does not see what rank 0 sees (a
/// mount that is missing on its node, a stale folder) tries again for --retry-seconds; then all throw
/// IoError. Collective.
[[nodiscard]] Dataset open_on_all_ranks(const std::string& reference, const Communicator& world);

}  // namespace dino
