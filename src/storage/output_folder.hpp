// SPDX-License-Identifier: Apache-2.0
#pragma once
// How a command takes possession of the folder that it writes to.

#include <memory>

#include "comm/program.hpp"
#include "storage/files.hpp"
#include "storage/output_kind.hpp"

namespace dino {

/// Makes --output and locks it (rank 0, until destroyed), then removes what earlier starts left
/// in it: errors/, and half-written files of those that were killed.
/// UsageError when none is named, when it holds what another kind of command keeps there (output_kind), or
/// when another job has it. Collective.
[[nodiscard]] std::unique_ptr<FolderLock> lock_output_folder(const CommandContext& context,
                                                             std::string_view kind);

}  // namespace dino
