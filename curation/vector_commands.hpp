// SPDX-License-Identifier: Apache-2.0
#pragma once
// Commands on embeddings: near-duplicates, clusters, balanced samples.

#include <cstdint>
#include <memory>
#include <string>

#include "base/error.hpp"
#include "comm/communicator.hpp"
#include "comm/program.hpp"
#include "comm/together.hpp"
#include "tensor/tensor.hpp"
#include "vectors/embeddings.hpp"

namespace dino {

Command dedup_command();
Command cluster_command();
Command balance_command();

/// The rows of a reference that belong to this rank (even_range).
struct LocalRows {
  Tensor rows;  ///< f32 [n, width]
  int64_t total = 0, first = 0, width = 0;
};
/// Opens a reference on all ranks and compares it with its checksums. Collective; `remedy` ends the message
/// about a damaged file.
EmbeddingStore open_rows(const std::string& reference, const Communicator& comm, const std::string& remedy);
/// Collective; a rank that cannot read its part fails all.
[[nodiscard]] LocalRows load_rows(const std::string& reference, bool normalized, const Communicator& comm,
                                  const std::string& remedy = "copy it again, or make it again");

}  // namespace dino
