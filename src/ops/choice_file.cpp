// SPDX-License-Identifier: Apache-2.0
#include "ops/choice_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include "base/log.hpp"

namespace dino::ops {
namespace {

/// Larger files are not ours.
constexpr uintmax_t kLargestFile = uintmax_t{16} << 20;

/// FNV-1a.
std::string checksum(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return fmt::format("{:016x}", hash);
}

}  // namespace

ChoiceFile::ChoiceFile(std::string path) : path_(std::move(path)) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path_, error);
  if (error) return;  // there is none
  if (size > kLargestFile) {
    log::warning(fmt::format("{} is too large for what it should hold and is not read; delete it", path_));
    path_.clear();
    return;
  }
  std::ifstream file(path_);
  int broken = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string sum, key, value, more;
    words >> sum >> key >> value;
    if (value.empty() || words >> more || sum != checksum(key + " " + value))
      ++broken;
    else
      choices_[key] = value;
  }
  if (broken > 0)
    log::warning(
        fmt::format("{} broken lines of {} are ignored; delete the file to be rid of them", broken, path_));
}

std::optional<std::string> ChoiceFile::find(const std::string& key) const {
  const auto at = choices_.find(key);
  return at == choices_.end() ? std::nullopt : std::optional(at->second);
}

void ChoiceFile::keep(const std::string& key, const std::string& value) {
  choices_[key] = value;
  if (path_.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), error);
  const int file = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  // One call a line: processes that add at the same time do not mix theirs.
  const std::string words = key + " " + value;
  const std::string line = fmt::format("{} {}\n", checksum(words), words);
  const bool written =
      file >= 0 && ::write(file, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  if (file >= 0) ::close(file);
  if (!written) {
    log::info(fmt::format("{} cannot be written: later runs choose again", path_));
    path_.clear();
  }
}

std::string cache_path(const std::string& name) {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return fmt::format("{}/dinohpc/{}", cache, name);
  const char* const home = std::getenv("HOME");
  return home == nullptr || *home == '\0' ? "" : fmt::format("{}/.cache/dinohpc/{}", home, name);
}

}  // namespace dino::ops
