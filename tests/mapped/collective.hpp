// SPDX-License-Identifier: Apache-2.0
#pragma once
// Collectives on mapped memory.

#include <memory>

#include "comm/collective.hpp"
#include "mapped/memory.hpp"

namespace dino::testing {

/// A collective of the host, for tensors of `memory` (which must outlive it). The result arrives as late as
/// the contract allows: until somebody waits for the event, the tensor holds NaN.
[[nodiscard]] std::unique_ptr<Collective> make_mapped_collective(const MappedMemory& memory,
                                                                 std::unique_ptr<Collective> host);

}  // namespace dino::testing
