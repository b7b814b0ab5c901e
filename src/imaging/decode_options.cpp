// SPDX-License-Identifier: Apache-2.0
#include "imaging/decode_options.hpp"

#include <array>
#include <charconv>
#include <cstdlib>

#include "base/error.hpp"

namespace dino {

int64_t parse_decode_memory(const std::string& text) {
  constexpr double kLeast = 1 << 20;
  static constexpr std::array<std::pair<char, double>, 4> units = {
      {{'K', 0x1p10}, {'M', 0x1p20}, {'G', 0x1p30}, {'T', 0x1p40}}};
  double value = -1;
  const char* const end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{}) value = -1;
  std::string unit(rest, end);
  for (const auto& [letter, factor] : units) {
    if (unit.empty() || (unit[0] & ~0x20) != letter) continue;
    value *= factor;
    unit.erase(0, 1);
    if (unit == "iB" || unit == "B" || unit == "ib" || unit == "b") unit.clear();
    break;
  }
  if (!unit.empty() || !(value >= kLeast && value <= 0x1p50))
    throw UsageError("reading options: --decode-memory: '" + text +
                     "' is not a size of 1M or more; give one such as 512M or 1G");
  return static_cast<int64_t>(value);
}

std::optional<Colour> parse_background(const std::string& text) {
  if (text == "auto") return std::nullopt;
  Colour colour{};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (size_t c = 0; c < 3; ++c) {
    while (at != end && *at == ' ') ++at;
    int value = -1;
    const auto [next, error] = std::from_chars(at, end, value);
    const bool last = c == 2;
    if (error != std::errc{} || value < 0 || value > 255 ||
        (last ? next != end : next == end || *next != ','))
      throw UsageError("reading options: --background: '" + text +
                       "' is not a colour; give auto, or R,G,B with values from 0 to 255");
    colour[c] = static_cast<uint8_t>(value);
    at = next + (last ? 0 : 1);
  }
  return colour;
}

}  // namespace dino
