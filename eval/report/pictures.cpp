// SPDX-License-Identifier: Apache-2.0
// Pictures that dino-eval drew: components of patch tokens, attention, segmentation, neighbours.
#include <fmt/format.h>

#include "report/html.hpp"
#include "report/parts.hpp"

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

std::string pictures_html(const ReportInput& input) {
  constexpr const char* kinds[][3] = {
      {"pca", "Principal components of patch tokens",
       "Red, green and blue are three components, fitted jointly over all images of a set; the background is "
       "left out."},
      {"attention", "Attention of the class token",
       "One map per head of the last block, each scaled to its own maximum."},
      {"segment", "Foreground segmentation", "Image, truth, prediction and errors."},
      {"neighbours", "Nearest neighbours",
       "Query in a dark frame, then its nearest training images: solid frame = same class, dashed frame = "
       "another."}};
  std::string out;
  for (const auto& [kind, title, note] : kinds) {
    std::string sets;
    for (const ResultFolder& folder : input.results)
      for (const LoadedPictures& set : folder.pictures)
        if (set.kind == kind)
          sets += fmt::format("<details{}><summary>{} on {}</summary>{}</details>\n",
                              is_floor(set.model) ? "" : " open=\"open\"", escape(set.model),
                              escape(set.dataset), strips(set));
    if (!sets.empty()) out += fmt::format("<h3>{}</h3><p class=\"note before\">{}</p>{}", title, note, sets);
  }
  return out;
}

}  // namespace dino::eval
