// SPDX-License-Identifier: Apache-2.0
#include "base/text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "base/error.hpp"

namespace dino {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/// Reads one item from `value` at `at`, up to a comma where `in_list`, a comment, or the end; `at` is left
/// after it.
std::string take_item(std::string_view value, size_t& at, bool in_list, const std::string& place) {
  while (at < value.size() && is_space(value[at])) ++at;
  std::string item;
  if (at < value.size() && value[at] == '"') {
    for (++at; at < value.size() && value[at] != '"'; ++at) {
      if (value[at] == '\\' && at + 1 < value.size()) {
        ++at;
        item += value[at] == 'n' ? '\n' : value[at];
      } else {
        item += value[at];
      }
    }
    if (at == value.size())
      throw UsageError(fmt::format("bad recipe: {}: a quote is not closed; add the second '\"'", place));
    ++at;
    while (at < value.size() && is_space(value[at])) ++at;
    const bool ends =
        at == value.size() || value[at] == '#' || value[at] == ';' || (in_list && value[at] == ',');
    if (!ends)
      throw UsageError(
          fmt::format("bad recipe: {}: text follows the closing quote; quote the whole value", place));
    return item;
  }
  const size_t begin = at;
  while (at < value.size() && !(in_list && value[at] == ',') &&
         !((value[at] == '#' || value[at] == ';') && (at == begin || is_space(value[at - 1]))))
    ++at;
  return trim(value.substr(begin, at - begin));
}

}  // namespace

std::string trim(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return std::string(text);
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end = text.find(separator); end != std::string_view::npos; end = text.find(separator, begin)) {
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  parts.emplace_back(text.substr(begin));
  return parts;
}

template <class T>
std::optional<T> parse_number(std::string_view word) {
  if (word.starts_with('+')) word.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  if constexpr (std::is_floating_point_v<T>)
    if (!std::isfinite(value)) return std::nullopt;
  return value;
}
template std::optional<int64_t> parse_number(std::string_view);
template std::optional<double> parse_number(std::string_view);

std::optional<bool> parse_bool(std::string_view word) {
  for (const char* yes : {"true", "yes", "on", "1"})
    if (word == yes) return true;
  for (const char* no : {"false", "no", "off", "0"})
    if (word == no) return false;
  return std::nullopt;
}

std::vector<std::string> wrap(std::string_view text, size_t width) {
  std::vector<std::string> lines(1);
  for (const std::string& word : split(text, ' ')) {
    if (word.empty()) continue;
    std::string& line = lines.back();
    if (line.empty())
      line = word;
    else if (line.size() + 1 + word.size() <= width)
      line += " " + word;
    else
      lines.push_back(word);
  }
  return lines;
}

std::string roff_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n'))
      (out += "\\&") += c;
    else
      out += c;
  }
  return out;
}

namespace {

/// Bytes of the UTF-8 sequence at the front and its code point; 0 bytes when it is not one.
struct Utf8 {
  size_t size = 0;
  uint32_t code = 0;
};

Utf8 utf8_at(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {1, first};
  const size_t size = first >= 0xf0 && first < 0xf5   ? 4
                      : first >= 0xe0 && first < 0xf0 ? 3
                      : first >= 0xc2 && first < 0xe0 ? 2
                                                      : 0;
  if (size == 0 || text.size() < size) return {};
  uint32_t code = first & (0xffu >> (size + 1));
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0u) != 0x80u) return {};
    code = code << 6 | (byte(i) & 0x3fu);
  }
  constexpr std::array<uint32_t, 5> least = {0, 0, 0x80, 0x800, 0x10000};
  if (code < least[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return {};
  return {size, code};
}

/// Moves the cursor, erases, or turns the direction of writing, or ends the line.
bool is_control(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x200e && code <= 0x200f) ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code == 0xfeff;
}

int hex_digit(char c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/// Does "\\xNN" stand at the front?
bool is_pair(std::string_view text) {
  return text.size() >= 4 && text[0] == '\\' && text[1] == 'x' && hex_digit(text[2]) >= 0 &&
         hex_digit(text[3]) >= 0;
}

std::string printable(std::string_view text, bool keep_pairs) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8 next = utf8_at(text);
    const size_t size = std::max<size_t>(next.size, 1);
    const bool plain = next.size > 0 && !is_control(next.code) && (keep_pairs || !is_pair(text));
    for (const char c : text.substr(0, size)) {
      if (plain)
        out += c;
      else
        out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
    text.remove_prefix(size);
  }
  return out;
}

}  // namespace

std::string printable_name(std::string_view bytes) {
  return printable(bytes, false);
}

std::string printable_line(std::string_view text) {
  return printable(text, true);
}

std::string raw_name(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const bool pair = is_pair(text);
    out += pair ? static_cast<char>(hex_digit(text[2]) << 4 | hex_digit(text[3])) : text[0];
    text.remove_prefix(pair ? 4 : 1);
  }
  return out;
}

std::string_view without_byte_order_mark(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  return text;
}

bool is_wide_text(std::string_view text) {
  using namespace std::string_view_literals;
  return text.starts_with("\xff\xfe"sv) || text.starts_with("\xfe\xff"sv) ||
         text.starts_with("\0\0\xfe\xff"sv);
}

size_t edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the optimal-string-alignment table; row i is the cost of a[0, i) against every prefix of b.
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before.swap(above);
    above.swap(row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& names) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& other : names) {
    // A word that was cut short, or one with more behind it, counts as one edit.
    const bool prefix = name.size() >= 3 && (other.starts_with(name) || name.starts_with(other));
    const size_t distance = prefix ? 1 : edit_distance(name, other);
    if (distance < best_distance && distance < std::max(name.size(), other.size())) {
      best_distance = distance;
      best = other;
    }
  }
  return best;
}

std::vector<IniLine> read_ini(std::string_view text, const std::string& source, const std::string& kind) {
  std::vector<IniLine> lines;
  if (is_wide_text(text))
    throw UsageError(fmt::format("{}: {}: it is UTF-16 or UTF-32; save it as UTF-8", kind, source));
  text = without_byte_order_mark(text);
  std::string section;
  int number = 0;
  for (const std::string& raw : split(text, '\n')) {
    ++number;
    if (std::any_of(raw.begin(), raw.end(),
                    [](unsigned char c) { return c < 0x20 && c != '\t' && c != '\r'; }))
      throw UsageError(
          fmt::format("{}: {}:{}: it holds control characters; give a text file", kind, source, number));
    const std::string line = trim(raw);
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line[0] == '[') {
      const size_t end = line.find(']');
      const std::string rest = end == std::string::npos ? "" : trim(line.substr(end + 1));
      if (end == std::string::npos || (!rest.empty() && rest[0] != '#' && rest[0] != ';'))
        throw UsageError(
            fmt::format("{}: {}:{}: '{}' is not a section; write [name]", kind, source, number, line));
      section = trim(line.substr(1, end - 1));
      continue;
    }
    const size_t equals = line.find('=');
    const std::string key = equals == std::string::npos ? "" : trim(line.substr(0, equals));
    if (key.empty())
      throw UsageError(fmt::format("{}: {}:{}: '{}' is not a setting; write key = value", kind, source,
                                   number, line.substr(0, 60)));
    lines.push_back({number, section, key, trim(line.substr(equals + 1))});
  }
  return lines;
}

std::string ini_word(std::string_view value, const std::string& place) {
  size_t at = 0;
  return take_item(value, at, false, place);
}

std::vector<std::string> ini_words(std::string_view value, const std::string& place) {
  std::vector<std::string> words;
  size_t at = 0;
  while (true) {
    const bool quoted = trim(value.substr(at)).starts_with('"');
    std::string item = take_item(value, at, true, place);
    if (!item.empty() || quoted) words.push_back(std::move(item));
    if (at >= value.size() || value[at] != ',') return words;
    ++at;
  }
}

std::string ini_quote(const std::string& word, bool in_list) {
  const bool plain = word == trim(word) && word.find_first_of("\"\n#;") == std::string::npos &&
                     !(in_list && (word.empty() || word.find(',') != std::string::npos));
  if (plain) return word;
  std::string out = "\"";
  for (const char c : word) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out + "\"";
}

std::string shell_quote(const std::string& word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("/_-.+,=@:%").find(c) != std::string_view::npos;
  });
  if (plain) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace dino
