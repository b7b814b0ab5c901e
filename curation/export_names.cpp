// SPDX-License-Identifier: Apache-2.0
#include "export_names.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "base/text.hpp"
#include "storage/files.hpp"

namespace dino::curation {
namespace {

/// File systems end names at 255 bytes; an extension and a number must fit behind.
constexpr size_t kLongestPart = 180;

/// Bytes that no program shows, and separators of other systems.
bool is_unsafe(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f || c == '\\' || c == ':' || c == '*' || c == '?' || c == '"' ||
         c == '<' || c == '>' || c == '|';
}

/// One part of a path: no control characters, not "." or "..", not hidden, not too long.
std::string safe_part(std::string_view part) {
  std::string out;
  for (size_t i = 0; i < part.size(); ++i) {
    const bool escape = part[i] == '\\' && raw_name(part.substr(i, 4)).size() == 1 && part.size() - i >= 4;
    const bool leading_dot = part[i] == '.' && out.find_first_not_of('_') == std::string::npos;
    out += leading_dot || is_unsafe(part[i]) ? '_' : part[i];
    if (escape) i += 3;
  }
  if (out.size() <= kLongestPart) return out;
  const std::string tail = "~" + sha256_hex(std::as_bytes(std::span(part))).substr(0, 16);
  size_t end = kLongestPart - tail.size();
  while (end > 0 && (static_cast<unsigned char>(out[end]) & 0xc0u) == 0x80u) --end;  // whole characters
  return out.substr(0, end) + tail;
}

std::string safe_key(std::string_view key) {
  std::string out;
  for (const std::string& part : split(key, '/')) {
    if (part.empty() || part == ".") continue;
    out += (out.empty() ? "" : "/") + safe_part(part);
  }
  const size_t base = out.rfind('/') == std::string::npos ? 0 : out.rfind('/') + 1;
  std::replace(out.begin() + static_cast<std::ptrdiff_t>(base), out.end(), '.', '_');
  return out.empty() ? "_" : out;
}

}  // namespace

std::vector<std::string> export_names(const std::vector<std::string>& keys) {
  std::vector<std::string> names;
  names.reserve(keys.size());
  std::unordered_set<std::string> seen;
  std::unordered_map<std::string, int64_t> copies;
  for (const std::string& key : keys) {
    const std::string safe = safe_key(key);
    std::string name = safe;
    while (!seen.insert(name).second) {
      int64_t& copy = copies.try_emplace(safe, 1).first->second;
      name = fmt::format("{}~{}", safe, ++copy);
    }
    names.push_back(std::move(name));
  }
  return names;
}

std::string export_extension(std::string_view extension) {
  constexpr size_t kLongest = 40;
  std::string out;
  for (const char c : extension.substr(0, kLongest)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
    out += plain ? c : '_';
  }
  return out.empty() ? "bin" : out;
}

}  // namespace dino::curation
