// SPDX-License-Identifier: Apache-2.0
#pragma once
// Keys of the ledger -> keys of members in exported tars. They stay below the folder that a tar is unpacked
// to, hold no control character, fit the names of file systems, and their base name has no dot, as WebDataset
// readers end a key at the first one.

#include <string>
#include <string_view>
#include <vector>

namespace dino::curation {

/// One a key, of all rows of a ledger: unique, and the same for the same keys in the same order: later ones
/// of equal names get ~2, ~3.
[[nodiscard]] std::vector<std::string> export_names(const std::vector<std::string>& keys);

/// An extension that is safe behind such a key: lower-case letters, digits, dots, '-' and '_'.
[[nodiscard]] std::string export_extension(std::string_view extension);

}  // namespace dino::curation
