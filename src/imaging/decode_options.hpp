// SPDX-License-Identifier: Apache-2.0
#pragma once
// The options of decoding that every program has.

#include <optional>
#include <string>
#include <string_view>

#include "base/options.hpp"
#include "imaging/image.hpp"

namespace dino {

/// What one thread may take to decode an image: 512M, 1G, 1.5GiB; a number alone is bytes; 1 MiB at least.
struct DecodeMemory {
  int64_t bytes = int64_t{1} << 30;
  static DecodeMemory from_text(std::string_view text);  ///< std::invalid_argument
  [[nodiscard]] std::string text() const;
  static const char* type_name() { return "SIZE"; }
};

/// --decode-memory.
template <class C>
void add_decode_memory(Schema<C>& schema, DecodeMemory C::*member) {
  schema.add("decode-memory", member,
             "Leave out images whose decoding needs more memory than this in one thread (512M, 2G; a number "
             "alone is bytes).");
}

/// What stands behind transparent pixels and padding: R,G,B, or auto (visible_background decides).
struct Background {
  std::optional<Colour> colour;
  static Background from_text(std::string_view text);  ///< std::invalid_argument
  [[nodiscard]] std::string text() const;
  static const char* type_name() { return "COLOUR"; }
  bool operator==(const Background&) const = default;
};

}  // namespace dino
