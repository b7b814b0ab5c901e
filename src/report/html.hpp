// SPDX-License-Identifier: Apache-2.0
#pragma once
// One self-contained HTML file: inline CSS, SVG and pictures; works offline and with JavaScript off; light
// and dark; deterministic bytes.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "imaging/image.hpp"

namespace dino::report {

[[nodiscard]] std::string escape(std::string_view text);
/// Text as it is in Markdown, also inside a cell of a table: on one line, and nothing in it is markup.
[[nodiscard]] std::string escape_markdown(std::string_view text);
/// data:image/png;base64,... or image/jpeg for large pictures, and for photographs, where it is far smaller.
[[nodiscard]] std::string data_uri(const Image& image);

struct Column {
  std::string title;
  bool numeric = false;
};
/// Sortable by header click where JavaScript is on; on a narrow screen every row is a card of its named
/// cells. Cells are HTML (escape text yourself).
[[nodiscard]] std::string table(const std::vector<Column>& columns,
                                const std::vector<std::vector<std::string>>& rows,
                                const std::string& caption = {});

struct Picture {
  Image image;
  std::string caption;    ///< text
  std::string css_class;  ///< "kept", "dropped", "good", "bad" or empty
};
[[nodiscard]] std::string gallery(const std::vector<Picture>& pictures);

/// A page of sections with a sticky table of contents.
class Page {
 public:
  Page(std::string title, std::string subtitle);
  void section(const std::string& id, const std::string& title, const std::string& html);
  /// Raw data embedded as <script type="application/json" id=...>.
  void data(const std::string& id, const std::string& json);
  [[nodiscard]] std::string html() const;

 private:
  std::string title_, subtitle_;
  struct Section {
    std::string id, title, html;
  };
  std::vector<Section> sections_;
  std::vector<std::pair<std::string, std::string>> data_;
};

}  // namespace dino::report
