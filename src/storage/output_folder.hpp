// SPDX-License-Identifier: Apache-2.0
#pragma once
// How a command takes possession of the folder that it writes to.

#include <memory>

#include "comm/program.hpp"
#include "storage/files.hpp"

namespace dino {

/// Makes --output and locks it (rank 0, until destroyed), then removes what earlier starts left
/// in it: errors/, and half-written files of those that were killed.
/// UsageError when none is named or another job has it. Collective.
[[nodiscard]] std::unique_ptr<FolderLock> lock_output_folder(const CommandContext& context);

}  // namespace dino
