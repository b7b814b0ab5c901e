// SPDX-License-Identifier: Apache-2.0
#pragma once
// Data references of all ranks: as records that every rank opens for itself, or as one list that rank 0 makes
// and all map.

#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "datasets/dataset.hpp"
#include "datasets/record_list.hpp"

namespace dino {

/// open_dataset on every rank; rank 0's errors are everybody's. A rank that does not see what rank 0 sees (a
/// mount that is missing on its node, a stale folder) tries again for --retry-seconds; then all throw
/// IoError. Collective.
[[nodiscard]] Dataset open_on_all_ranks(const std::string& reference, const Communicator& world);

/// The references' records in the order given, each as open_dataset has them (keys and labels are the
/// references' own; one alone has its classes). Rank 0 has the list, in a file without a name in `folder` or,
/// where that is empty, in memory; on the other ranks it is empty. While rank 0 lists
/// tars it holds one of them at a time (list_dataset); of other references, and of tars that repeat each
/// other's keys, all records of one reference, some 500 bytes each, which it gives back. All ranks look for
/// some of the files: one that does not see them tries again for --retry-seconds; then all throw IoError.
/// Where `kept` is the list that an earlier start made of the same references, and no file or folder that
/// decided on it has another size or time since, it is that list, and none of them is opened. Collective.
[[nodiscard]] RecordList list_images(const std::vector<std::string>& references, const std::string& folder,
                                     const std::string& kept, const Communicator& world);

/// Commits rank 0's list at `path`, unless the same list is there undamaged (a damaged one is said and made
/// anew), and maps it on all ranks, which compare it with its checksum together. A rank that does not see the
/// file tries again for --retry-seconds; then all throw IoError. Collective.
[[nodiscard]] RecordList share_list(RecordList list, const std::string& path, const Communicator& world);

/// The folder itself or the nearest above it that is there.
[[nodiscard]] std::string nearest_folder(const std::string& path);

}  // namespace dino
