// SPDX-License-Identifier: Apache-2.0
#pragma once
// OUT/stages/inputs.json and excluded.json: what a curation was begun over, and its excluded sets. A digest
// of the records of each reference (names, sizes, classes, places, sidecars), and in inputs.tsv and
// excluded.tsv the records themselves, so that a later start can say what is another. Rank 0 only.

#include <string>

#include "listing.hpp"

namespace dino::curation {

/// DataError when a reference has other records than those that were kept. Changes nothing.
void compare_inputs(const std::string& out, const Listing& inputs, const Listing& excluded);
/// Keeps what is not kept yet; excluded sets of other references replace those that were.
void keep_inputs(const std::string& out, const Listing& inputs, const Listing& excluded);

}  // namespace dino::curation
