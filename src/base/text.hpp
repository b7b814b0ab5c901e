// SPDX-License-Identifier: Apache-2.0
#pragma once
// Small text helpers: the INI dialect of recipes and chain files, near names for error messages, roff.

#include <string>
#include <string_view>
#include <vector>

namespace dino {

[[nodiscard]] std::string trim(std::string_view text);
[[nodiscard]] std::vector<std::string> split(std::string_view text, char separator);
/// Breaks at spaces; a longer word stands alone.
[[nodiscard]] std::vector<std::string> wrap(std::string_view text, size_t width);
[[nodiscard]] std::string roff_escape(std::string_view text);

/// Insertions, deletions, replacements and swaps of neighbours that turn one into the other.
[[nodiscard]] size_t edit_distance(std::string_view a, std::string_view b);
/// The nearest of `names`, or empty when none is near enough to be what was meant.
[[nodiscard]] std::string nearest_name(std::string_view name, const std::vector<std::string>& names);

/// One `key = value` of an INI text. `value` is raw: quotes and comments are still in it.
struct IniLine {
  int number = 0;
  std::string section, key, value;
};
/// Lines that are empty or begin with '#' or ';' are skipped, `[name]` starts a section; anything else
/// without a '=' is a UsageError that names source and line.
[[nodiscard]] std::vector<IniLine> read_ini(std::string_view text, const std::string& source);
/// One value: the text, or what stands in double quotes (\" and \\ and \n escaped); " #" begins a comment.
[[nodiscard]] std::string ini_word(std::string_view value, const std::string& place);
/// A list separated by commas; each item may be quoted. An empty value is an empty list.
[[nodiscard]] std::vector<std::string> ini_words(std::string_view value, const std::string& place);
/// The inverse of ini_word (and of ini_words for one item): quotes where needed.
[[nodiscard]] std::string ini_quote(const std::string& word, bool in_list);

}  // namespace dino
