// SPDX-License-Identifier: Apache-2.0
#pragma once
// share/datasets/dense/NAME.cfg, or dense.cfg in a folder: where the pairs of a data set lie and what the
// numbers in its maps mean. See share/datasets/README.md for the keys.

#include <optional>
#include <string>

#include "datasets/dense_dataset.hpp"

namespace dino {

/// NAME[/PART][:ROOT] of a definition in share/datasets/dense/, or nothing when no such name is there.
/// MissingInputError where the part or the root is not there; DataError for a bad definition.
[[nodiscard]] std::optional<DenseDataset> open_defined_dense(const std::string& reference);
/// FOLDER[/PART] with FOLDER/dense.cfg, or nothing.
[[nodiscard]] std::optional<DenseDataset> open_folder_defined_dense(const std::string& reference);
[[nodiscard]] std::vector<std::string> dense_dataset_names();

}  // namespace dino
