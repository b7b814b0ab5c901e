// SPDX-License-Identifier: Apache-2.0
#include "base/version.hpp"

#include <cstdlib>
#include <filesystem>

namespace dino {

const char* version() {
  return DINO_VERSION;
}
const char* commit() {
  return DINO_COMMIT;
}
const char* build_type() {
  return DINO_BUILD_TYPE;
}

std::string share_dir() {
  if (const char* share = std::getenv("DINO_SHARE"); share != nullptr && *share != '\0') return share;
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) {
    const auto installed = program.parent_path().parent_path() / "share" / "dinohpc";
    if (std::filesystem::is_directory(installed, error)) return installed.string();
  }
  return DINO_SOURCE_SHARE;
}

}  // namespace dino
