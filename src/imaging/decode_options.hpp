// SPDX-License-Identifier: Apache-2.0
#pragma once
// The options of decoding that every program has.

#include <optional>
#include <string>

#include "base/options.hpp"
#include "imaging/image.hpp"

namespace dino {

constexpr const char* kDecodeMemory = "1G";
constexpr const char* kDecodeMemoryHelp =
    "Leave out images whose decoding needs more memory than this in one thread (512M, 2G; a number alone is "
    "bytes).";

/// --decode-memory: a size such as 512M, 1G or 1.5GiB; a number alone is bytes.
template <class C>
void add_decode_memory(Schema<C>& schema, std::string C::*member) {
  schema.add("decode-memory", member, kDecodeMemoryHelp);
}
/// UsageError when the text is no size or below 1 MiB.
[[nodiscard]] int64_t parse_decode_memory(const std::string& text);

/// "auto" (none: visible_background decides) or R,G,B; UsageError for anything else.
[[nodiscard]] std::optional<Colour> parse_background(const std::string& text);

}  // namespace dino
