// SPDX-License-Identifier: Apache-2.0
#pragma once
// Commands on embeddings: near-duplicates, clusters, balanced samples.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/error.hpp"
#include "comm/communicator.hpp"
#include "comm/program.hpp"
#include "storage/files.hpp"
#include "tensor/tensor.hpp"

namespace dino {

Command dedup_command();
Command cluster_command();
Command balance_command();

/// The rows of a reference that belong to this rank (even_range).
struct LocalRows {
  Tensor rows;  ///< f32 [n, width]
  int64_t total = 0, first = 0, width = 0;
};
/// Collective; a rank that cannot read its part fails all.
[[nodiscard]] LocalRows load_rows(const std::string& reference, bool normalized, const Communicator& comm);

/// Runs `work` on rank 0; its failure is thrown on every rank.
void on_root(const Communicator& comm, const std::function<void()>& work);

/// The output folder: made, and locked by rank 0 until destroyed. UsageError when none is named. Collective.
[[nodiscard]] std::unique_ptr<FolderLock> open_output(const CommandContext& context);
/// The same for a command whose files would replace those of a curation or lie among a run's. Collective.
[[nodiscard]] std::unique_ptr<FolderLock> open_own_output(const CommandContext& context);

}  // namespace dino
