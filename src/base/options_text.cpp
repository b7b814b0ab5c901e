// SPDX-License-Identifier: Apache-2.0
// --help and man-page text of an option table.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/options.hpp"
#include "base/text.hpp"

namespace dino {
namespace {

constexpr size_t kColumn = 30;  ///< where the help of an option begins
constexpr size_t kWidth = 100;

std::string limits(const OptionTable::Entry& entry) {
  std::vector<std::string> notes;
  if (entry.is_required) notes.push_back("required");
  if (entry.is_positional) notes.push_back("may stand without its name");
  if (!entry.allowed.empty()) notes.push_back(fmt::format("one of {}", fmt::join(entry.allowed, ", ")));
  if (entry.has_range) notes.push_back(fmt::format("{} to {}", entry.low, entry.high));
  if (!entry.default_text.empty() && !(entry.is_bool && entry.default_text == "false"))
    notes.push_back("default " + entry.default_text);
  return notes.empty() ? "" : fmt::format(" ({})", fmt::join(notes, "; "));
}

}  // namespace

std::string OptionTable::help() const {
  std::string text;
  const std::string* heading = nullptr;
  for (const Entry& entry : entries_) {
    if (heading == nullptr || *heading != entry.heading) {
      text +=
          fmt::format("{}{}:\n", text.empty() ? "" : "\n", entry.heading.empty() ? "Options" : entry.heading);
      heading = &entry.heading;
    }
    std::string left = fmt::format("  --{}{}{}", entry.name, entry.type.empty() ? "" : " ", entry.type);
    if (left.size() + 2 > kColumn) {
      text += left + "\n";
      left.clear();
    }
    left.resize(kColumn, ' ');
    for (const std::string& line : wrap(entry.help + limits(entry), kWidth - kColumn)) {
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
    if (heading == nullptr || *heading != entry.heading) {
      if (!entry.heading.empty()) text += fmt::format(".PP\n{}\n", roff_escape(entry.heading));
      heading = &entry.heading;
    }
    text += fmt::format(".TP\n\\fB\\-\\-{}\\fR{}\n{}\n", roff_escape(entry.name),
                        entry.type.empty() ? "" : " \\fI" + roff_escape(entry.type) + "\\fR",
                        roff_escape(entry.help + limits(entry)));
  }
  return text;
}

}  // namespace dino
