// SPDX-License-Identifier: Apache-2.0
#pragma once
// Texts beside images.

#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "datasets/dataset.hpp"

namespace dino::eval {

struct CaptionedRecord {
  Record record;
  std::vector<std::string> captions;  ///< at least one
};

/// Records of a data reference that have captions: in a tar the member KEY.txt, else "caption" of KEY.json
/// (WebDataset, as img2dataset writes them); in a folder NAME.txt beside the image. A text file has a caption
/// on every line that is not blank. Images without one are left out and counted in the log. DataError when no
/// image has any; IoError. Collective.
[[nodiscard]] std::vector<CaptionedRecord> captioned_records(const std::string& reference,
                                                             const Communicator& world);

}  // namespace dino::eval
