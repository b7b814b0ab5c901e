// SPDX-License-Identifier: Apache-2.0
#pragma once
// The options of decoding that every program has.

#include <optional>
#include <string>

#include "base/options.hpp"
#include "imaging/image.hpp"

namespace dino {

constexpr const char* kDecodeMemory = "1G";

/// --decode-memory: a size such as 512M, 1G or 1.5GiB; a number alone is bytes.
void add_decode_memory(OptionTable& table, std::string* field);
/// UsageError when the text is no size or below 1 MiB.
[[nodiscard]] int64_t parse_decode_memory(const std::string& text);

/// "auto" (none: visible_background decides) or R,G,B; UsageError for anything else.
[[nodiscard]] std::optional<Colour> parse_background(const std::string& text);

}  // namespace dino
