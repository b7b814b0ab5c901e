// SPDX-License-Identifier: Apache-2.0
#include "imaging/decode_options.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <stdexcept>

namespace dino {
namespace {

constexpr std::array<std::pair<char, double>, 4> kUnits = {
    {{'K', 0x1p10}, {'M', 0x1p20}, {'G', 0x1p30}, {'T', 0x1p40}}};

}  // namespace

DecodeMemory DecodeMemory::from_text(std::string_view text) {
  constexpr double kLeast = 1 << 20;
  double value = -1;
  const char* const end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{}) value = -1;
  std::string unit(rest, end);
  for (const auto& [letter, factor] : kUnits) {
    if (unit.empty() || (unit[0] & ~0x20) != letter) continue;
    value *= factor;
    unit.erase(0, 1);
    if (unit == "iB" || unit == "B" || unit == "ib" || unit == "b") unit.clear();
    break;
  }
  if (!unit.empty() || !(value >= kLeast && value <= 0x1p50))
    throw std::invalid_argument(fmt::format("'{}' is not a size of 1M or more, such as 512M or 1G", text));
  return {static_cast<int64_t>(value)};
}

std::string DecodeMemory::text() const {
  for (auto unit = kUnits.rbegin(); unit != kUnits.rend(); ++unit)
    if (const auto factor = static_cast<int64_t>(unit->second); bytes % factor == 0)
      return fmt::format("{}{}", bytes / factor, unit->first);
  return std::to_string(bytes);
}

Background Background::from_text(std::string_view text) {
  if (text == "auto") return {};
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
      throw std::invalid_argument(
          fmt::format("'{}' is not a colour: auto, or R,G,B with values from 0 to 255", text));
    colour[c] = static_cast<uint8_t>(value);
    at = next + (last ? 0 : 1);
  }
  return {colour};
}

std::string Background::text() const {
  return colour ? fmt::format("{},{},{}", (*colour)[0], (*colour)[1], (*colour)[2]) : "auto";
}

}  // namespace dino
