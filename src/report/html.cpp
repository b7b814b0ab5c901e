// SPDX-License-Identifier: Apache-2.0
#include "report/html.hpp"

#include <fmt/format.h>

#include "report/style.hpp"

namespace dino::report {

std::string table(const std::vector<Column>& columns, const std::vector<std::vector<std::string>>& rows,
                  const std::string& caption) {
  // A paragraph instead of a <caption>: printers keep it, and the heading before it, on the page of the first
  // row.
  std::string out = caption.empty() ? "" : "<p class=\"note before\">" + escape(caption) + "</p>";
  out += "<div class=\"table\"><table class=\"sortable stack\"";
  if (!caption.empty()) out += " aria-label=\"" + escape(caption) + "\"";
  out += ">";
  out += "<thead><tr>";
  for (const Column& column : columns)
    out += fmt::format("<th scope=\"col\"{}>{}</th>", column.numeric ? " class=\"num\"" : "",
                       escape(column.title));
  out += "</tr></thead><tbody>\n";
  for (const auto& row : rows) {
    DINO_CHECK(row.size() == columns.size(), "a table row has another number of cells than columns");
    out += "<tr>";
    for (size_t c = 0; c < row.size(); ++c)
      out += fmt::format("<td{} data-label=\"{}\">{}</td>", columns[c].numeric ? " class=\"num\"" : "",
                         escape(columns[c].title), row[c].empty() ? "" : "<div>" + row[c] + "</div>");
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string gallery(const std::vector<Picture>& pictures) {
  std::string out = "<div class=\"gallery\">\n";
  for (const Picture& picture : pictures)
    out += fmt::format(
        "<figure class=\"picture{}{}\"><img src=\"{}\" alt=\"{}\" title=\"{}\" width=\"{}\" height=\"{}\" "
        "loading=\"lazy\" /><figcaption>{}</figcaption></figure>\n",
        picture.css_class.empty() ? "" : " ", escape(picture.css_class), data_uri(picture.image),
        escape(picture.caption), escape(picture.caption), picture.image.width, picture.image.height,
        escape(picture.caption));
  return out + "</div>\n";
}

Page::Page(std::string title, std::string subtitle)
    : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

void Page::section(const std::string& id, const std::string& title, const std::string& html) {
  sections_.push_back({id, title, html});
}

void Page::data(const std::string& id, const std::string& json) {
  // "<" may only stand inside JSON strings, where \u003c is the same character; so "</script>" cannot occur.
  std::string safe;
  safe.reserve(json.size());
  for (const char c : json)
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  data_.emplace_back(id, std::move(safe));
}

std::string Page::html() const {
  std::string out =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n"
      "<meta name=\"color-scheme\" content=\"light dark\" />\n<link rel=\"icon\" href=\"data:,\" />\n";
  out += "<title>" + escape(title_) + "</title>\n<style>\n" + style_sheet() + "</style>\n</head>\n<body>\n";
  out +=
      "<a class=\"skip\" href=\"#content\">Skip to the content</a>\n"
      "<div class=\"frame\">\n<nav aria-label=\"Contents\"><p class=\"brand\">dinohpc</p><ol>\n";
  for (const Section& s : sections_)
    out += fmt::format("<li><a href=\"#{}\">{}</a></li>\n", escape(s.id), escape(s.title));
  out += "</ol></nav>\n<main id=\"content\">\n<header><h1>" + escape(title_) + "</h1>";
  if (!subtitle_.empty()) out += "<p class=\"subtitle\">" + escape(subtitle_) + "</p>";
  out += "</header>\n";
  for (const Section& s : sections_)
    out +=
        fmt::format("<section id=\"{}\"><h2>{}</h2>\n{}</section>\n", escape(s.id), escape(s.title), s.html);
  out += "</main>\n</div>\n";
  for (const auto& [id, json] : data_)
    out += fmt::format("<script type=\"application/json\" id=\"{}\">{}</script>\n", escape(id), json);
  return out + "<script>\n" + page_script() + "</script>\n</body>\n</html>\n";
}

}  // namespace dino::report
