// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the reader and the writer of a list of records share.

#include <cstdint>
#include <string_view>

namespace dino {

inline constexpr std::string_view kRecordListMagic = "dinoLIST";
inline constexpr uint32_t kRecordListVersion = 2;

/// One record. A text of the heap is its length (u32) and its bytes. `path` leads to one text, which
/// neighbours of one tar share; `texts` to four: key, extension, group, fault.
struct RecordRow {
  int64_t offset = 0, size = 0;
  int64_t path = 0, texts = 0;  ///< bytes from the begin of the heap
  int32_t label = -1;
  uint32_t flags = 0;  ///< 1: Record::key_label
};
static_assert(sizeof(RecordRow) == 40);

}  // namespace dino
