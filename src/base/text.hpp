// SPDX-License-Identifier: Apache-2.0
#pragma once
// Small text helpers: the INI dialect of recipes and chain files, near names for error messages, roff.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

[[nodiscard]] std::string trim(std::string_view text);
[[nodiscard]] std::vector<std::string> split(std::string_view text, char separator);
/// All of `word` as a finite number of type int64_t or double, or nothing.
template <class T>
[[nodiscard]] std::optional<T> parse_number(std::string_view word);
/// true, yes, on, 1; false, no, off, 0.
[[nodiscard]] std::optional<bool> parse_bool(std::string_view word);
/// One word of a shell's command line that stands for these bytes.
[[nodiscard]] std::string shell_quote(const std::string& word);
/// Breaks at spaces; a longer word stands alone.
[[nodiscard]] std::vector<std::string> wrap(std::string_view text, size_t width);
[[nodiscard]] std::string roff_escape(std::string_view text);

/// A name from outside as text that is safe on terminals, in HDF5, JSON and markup: bytes that are not UTF-8,
/// control characters (C1 too) and the ones that turn the direction of writing become \xNN, a hexadecimal
/// pair a byte. A backslash stays, unless what follows it would read as such a pair. raw_name is the inverse.
[[nodiscard]] std::string printable_name(std::string_view bytes);
[[nodiscard]] std::string raw_name(std::string_view printable);
/// A line of a log: the same, but a pair that is there already stays as it is.
[[nodiscard]] std::string printable_line(std::string_view text);

/// `text` without the byte order mark of UTF-8.
[[nodiscard]] std::string_view without_byte_order_mark(std::string_view text);
/// Does it begin with the byte order mark of UTF-16 or UTF-32?
[[nodiscard]] bool is_wide_text(std::string_view text);

/// Insertions, deletions, replacements and swaps of neighbours that turn one into the other.
[[nodiscard]] size_t edit_distance(std::string_view a, std::string_view b);
/// The nearest of `names`, or empty when none is near enough to be what was meant.
[[nodiscard]] std::string nearest_name(std::string_view name, const std::vector<std::string>& names);

/// One `key = value` of an INI text. `value` is raw: quotes and comments are still in it.
struct IniLine {
  int number = 0;
  std::string section, key, value;
};
/// A byte order mark of UTF-8 is passed over. Lines that are empty or begin with '#' or ';' are skipped,
/// `[name]` starts a section; anything else without a '=' is a UsageError that begins with `kind` and names
/// source and line.
[[nodiscard]] std::vector<IniLine> read_ini(std::string_view text, const std::string& source,
                                            const std::string& kind = "bad recipe");
/// One value: the text, or what stands in double quotes (\" and \\ and \n escaped); " #" begins a comment.
[[nodiscard]] std::string ini_word(std::string_view value, const std::string& place);
/// A list separated by commas; each item may be quoted. An empty value is an empty list.
[[nodiscard]] std::vector<std::string> ini_words(std::string_view value, const std::string& place);
/// The inverse of ini_word (and of ini_words for one item): quotes where needed.
[[nodiscard]] std::string ini_quote(const std::string& word, bool in_list);

}  // namespace dino
