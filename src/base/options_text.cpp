// SPDX-License-Identifier: Apache-2.0
// --help and man-page text of an option table.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/options.hpp"
#include "base/text.hpp"

namespace dino {
namespace {

constexpr size_t kColumn = 28;  ///< where the help of an option begins
constexpr size_t kWidth = 80;

/// Long lists of numbers are broken between lines.
std::string shown_default(const OptionTable::Entry& entry) {
  if (entry.option.type->takes != FieldType::Takes::numbers) return entry.default_text;
  return fmt::format("{}", fmt::join(split(entry.default_text, ','), ", "));
}

std::string limits(const OptionTable::Entry& entry) {
  const Option& option = entry.option;
  std::vector<std::string> notes;
  if (option.is_positional) notes.push_back("may stand without its name");
  if (!option.allowed.empty()) notes.push_back(fmt::format("one of {}", fmt::join(option.allowed, ", ")));
  if (option.has_range) notes.push_back(fmt::format("{} to {}", option.low, option.high));
  if (!entry.default_text.empty() &&
      !(option.type->takes == FieldType::Takes::flag && entry.default_text == "false"))
    notes.push_back("default " + shown_default(entry));
  const std::string rest = notes.empty() ? "" : fmt::format(" ({})", fmt::join(notes, "; "));
  return (option.is_required ? " (required)" : "") + rest;
}

/// A heading where the section changes, or nothing.
const std::string* new_heading(const OptionTable::Entry& entry, const std::string*& heading) {
  if (heading != nullptr && *heading == entry.option.heading) return nullptr;
  heading = &entry.option.heading;
  return heading;
}

}  // namespace

std::string OptionTable::help() const {
  std::string text;
  const std::string* heading = nullptr;
  for (const Entry& entry : entries_) {
    const Option& option = entry.option;
    if (const std::string* title = new_heading(entry, heading))
      text += fmt::format("{}{}:\n", text.empty() ? "" : "\n", title->empty() ? "Options" : *title);
    const std::string& metavar = option.type->metavar;
    std::string left = fmt::format("  --{}{}{}", option.name, metavar.empty() ? "" : " ", metavar);
    if (left.size() + 2 > kColumn) {
      text += left + "\n";
      left.clear();
    }
    left.resize(kColumn, ' ');
    for (const std::string& line : wrap(option.help + limits(entry), kWidth - kColumn)) {
      text += left + line + "\n";
      left.assign(kColumn, ' ');
    }
  }
  return text;
}

std::string OptionTable::roff() const {
  std::string text;
  const std::string* heading = nullptr;
  for (const Entry& entry : entries_) {
    const Option& option = entry.option;
    if (const std::string* title = new_heading(entry, heading); title != nullptr && !title->empty())
      text += fmt::format(".PP\n{}\n", roff_escape(*title));
    const std::string& metavar = option.type->metavar;
    text += fmt::format(".TP\n\\fB\\-\\-{}\\fR{}\n{}\n", roff_escape(option.name),
                        metavar.empty() ? "" : " \\fI" + roff_escape(metavar) + "\\fR",
                        roff_escape(option.help + limits(entry)));
  }
  return text;
}

}  // namespace dino
