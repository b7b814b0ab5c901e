// SPDX-License-Identifier: Apache-2.0
#pragma once
// The closed list of verdicts. The numbers are written into ledgers: they are never reused.

#include <cstdint>
#include <string>
#include <vector>

#include "imaging/image.hpp"

namespace dino::curation {

enum class Reason : uint8_t {
  kept = 0,
  unreadable = 1,  ///< only in ledgers of earlier versions: a file that cannot be read ends the stage now
  not_an_image = 2,
  truncated = 3,
  corrupt = 4,
  too_large = 5,  ///< beyond max-pixels or max-bytes
  unsupported = 6,
  too_small = 7,
  aspect = 8,
  blur = 9,
  entropy = 10,
  exact_duplicate = 11,
  hash_duplicate = 12,
  near_duplicate = 13,
  leak = 14,           ///< near-copy of an excluded image
  leak_group = 15,     ///< represents a group of near-duplicates of which a member leaks
  balance = 16,        ///< not drawn by balanced sampling
  decode_memory = 17,  ///< decoding would need more than decode-memory, or the machine had no more
  changed = 18,        ///< its bytes are no longer those that ingest judged
  bad_name = 19,       ///< its name is longer than a name may be
  contrast = 20,       ///< of one colour, or nearly
};

enum class Stage : uint8_t {
  none = 0,
  ingest = 1,
  embed = 2,
  dedup = 3,
  decontaminate = 4,
  balance = 5,
  exported = 6,  ///< shown as "export"
  filter = 7     ///< between embed and dedup; in ledgers of earlier versions its work is ingest's
};

[[nodiscard]] const std::vector<std::string>& reason_names();
[[nodiscard]] const std::vector<std::string>& stage_names();
[[nodiscard]] const char* name_of(Reason reason);
[[nodiscard]] Reason reason_of(DecodeStatus status);

}  // namespace dino::curation
