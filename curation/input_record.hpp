// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a curation began with: stages/inputs.json (references, counts, hashes) and stages/inputs.tsv (a line a
// record: name, bytes, class, offset, sidecars), so that a later start can tell which input changed, and how.

#include <string>

#include "listing.hpp"

namespace dino::curation {

/// The first time the listings are written; later they are compared, and the first difference is a DataError.
/// Names and sizes decide, in order; bytes are compared where they are read again.
void keep_or_compare_inputs(const std::string& out, const Listing& inputs, const Listing& excluded);

}  // namespace dino::curation
