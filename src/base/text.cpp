// SPDX-License-Identifier: Apache-2.0
#include "base/text.hpp"

#include <fmt/format.h>

#include <algorithm>

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

std::vector<IniLine> read_ini(std::string_view text, const std::string& source) {
  std::vector<IniLine> lines;
  std::string section;
  int number = 0;
  for (const std::string& raw : split(text, '\n')) {
    ++number;
    if (std::any_of(raw.begin(), raw.end(),
                    [](unsigned char c) { return c < 0x20 && c != '\t' && c != '\r'; }))
      throw UsageError(
          fmt::format("bad recipe: {}:{}: it holds control characters; give a text file", source, number));
    const std::string line = trim(raw);
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line[0] == '[') {
      const size_t end = line.find(']');
      const std::string rest = end == std::string::npos ? "" : trim(line.substr(end + 1));
      if (end == std::string::npos || (!rest.empty() && rest[0] != '#' && rest[0] != ';'))
        throw UsageError(
            fmt::format("bad recipe: {}:{}: '{}' is not a section; write [name]", source, number, line));
      section = trim(line.substr(1, end - 1));
      continue;
    }
    const size_t equals = line.find('=');
    const std::string key = equals == std::string::npos ? "" : trim(line.substr(0, equals));
    if (key.empty())
      throw UsageError(fmt::format("bad recipe: {}:{}: '{}' is not a setting; write key = value", source,
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

}  // namespace dino
