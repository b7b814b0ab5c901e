// SPDX-License-Identifier: Apache-2.0
#pragma once
// Simple checks of generated markup for tests.

#include <set>
#include <string>
#include <vector>

namespace dino::report {

/// Empty when every tag is closed in order and every attribute value is quoted and closed; else the fault.
inline std::string markup_fault(const std::string& html) {
  std::vector<std::string> open;
  size_t i = 0;
  while ((i = html.find('<', i)) != std::string::npos) {
    if (html.compare(i, 2, "<!") == 0) {
      i = html.find('>', i);
      continue;
    }
    size_t j = i + 1;
    bool quoted = false;
    while (j < html.size() && (quoted || html[j] != '>')) {
      if (html[j] == '"') quoted = !quoted;
      if (!quoted && html[j] == '<') return "a tag inside a tag near " + html.substr(i, 60);
      ++j;
    }
    if (j == html.size()) return "a tag without end near " + html.substr(i, 60);
    const bool closing = html[i + 1] == '/', alone = html[j - 1] == '/';
    const size_t begin = i + (closing ? 2 : 1);
    const std::string name = html.substr(begin, html.find_first_of(" />\n", begin) - begin);
    if (closing) {
      if (open.empty() || open.back() != name)
        return "unexpected </" + name + "> inside <" + (open.empty() ? "" : open.back()) + ">";
      open.pop_back();
    } else if (!alone) {
      open.push_back(name);
      // Scripts and styles hold no markup.
      if (name == "script" || name == "style") j = html.find("</" + name + ">", j) - 1;
    }
    i = j + 1;
  }
  return open.empty() ? "" : "<" + open.back() + "> is never closed";
}

/// The first thing that a browser would load from elsewhere, or empty.
inline std::string external_reference(const std::string& html) {
  for (const char* attribute : {" src=\"", " href=\"", "url(", "@import ", " srcset=\"", " action=\""}) {
    const std::string pattern = attribute;
    for (size_t i = html.find(pattern); i != std::string::npos; i = html.find(pattern, i + 1)) {
      const std::string value = html.substr(i + pattern.size(), 80);
      if (value.rfind("data:", 0) != 0 && value.rfind('#', 0) != 0) return pattern + value;
    }
  }
  return {};
}

}  // namespace dino::report
