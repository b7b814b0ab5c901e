// SPDX-License-Identifier: Apache-2.0
// Pictures that tasks drew.
#include <fmt/format.h>

#include <set>

#include "report/html.hpp"
#include "report/parts.hpp"
#include "task.hpp"

namespace dino::eval {

using report::escape;

namespace {

std::string strips(const LoadedPictures& set) {
  std::string out = "<div class=\"strips " + escape(set.kind) + "\">";
  for (const LoadedStrip& strip : set.strips) {
    std::vector<report::Picture> pictures;
    for (const auto& e : strip.entries) pictures.push_back({e.image, e.caption, e.css_class});
    out += "<div class=\"strip\"><p class=\"note\">" + escape(strip.title) + "</p>" +
           report::gallery(pictures) + "</div>\n";
  }
  return out + "</div>";
}

}  // namespace

namespace {

/// All sets of one kind.
std::string sets_of(const ReportInput& input, const std::string& kind) {
  std::string sets;
  for (const ResultFolder& folder : input.results)
    for (const LoadedPictures& set : folder.pictures)
      if (set.kind == kind)
        sets += fmt::format("<details{}><summary>{} on {}</summary>{}</details>\n",
                            is_floor(set.model) ? "" : " open=\"open\"", escape(set.model),
                            escape(set.dataset), strips(set));
  return sets;
}

}  // namespace

std::string pictures_html(const ReportInput& input) {
  std::string out;
  std::set<std::string> shown;
  for (const TaskEntry& entry : tasks())
    for (const PictureKind& kind : entry.info.pictures) {
      shown.insert(kind.kind);
      if (const std::string sets = sets_of(input, kind.kind); !sets.empty())
        out += fmt::format("<h3>{}</h3><p class=\"note before\">{}</p>{}", kind.title, kind.note, sets);
    }
  // What other versions drew.
  for (const ResultFolder& folder : input.results)
    for (const LoadedPictures& set : folder.pictures)
      if (shown.insert(set.kind).second)
        out += fmt::format("<h3>{}</h3>{}", escape(set.kind), sets_of(input, set.kind));
  return out;
}

}  // namespace dino::eval
