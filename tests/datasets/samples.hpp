// SPDX-License-Identifier: Apache-2.0
#pragma once
// Files that begin as pictures do, and tars of texts.

#include <string>
#include <utility>
#include <vector>

#include "storage/tar.hpp"

namespace dino::testing {

inline const std::string kPng = "\x89PNG\r\n\x1a\nrest", kJpeg = "\xff\xd8\xff\xe0rest";

using Members = std::vector<std::pair<std::string, std::string>>;

inline void put_tar(const std::string& path, const Members& members) {
  TarWriter tar(path);
  for (const auto& [name, text] : members)
    tar.add(name, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  tar.close();
}

}  // namespace dino::testing
