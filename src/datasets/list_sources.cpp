// SPDX-License-Identifier: Apache-2.0
#include "datasets/list_sources.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "base/error.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kYoung = 2 * kSecond;

int64_t nanoseconds(const timespec& time) {
  return static_cast<int64_t>(time.tv_sec) * kSecond + time.tv_nsec;
}

int64_t now() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

}  // namespace

ListSource look_at(const std::string& path) {
  struct stat status {};
  if (!find_status(path, status)) return {path};
  return {path, status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

std::string text_of(const ListSource& source) {
  return fmt::format("{} {} {} {}", source.bytes, source.modified, source.changed, source.path);
}

ListSource source_of(const std::string& text) {
  long long bytes = 0, modified = 0, changed = 0;
  int length = 0;
  if (std::sscanf(text.c_str(), "%lld %lld %lld%n", &bytes, &modified, &changed, &length) != 3 ||
      text[static_cast<size_t>(length)] != ' ')
    throw DataError("not a source of a list: " + text.substr(0, 200));
  return {text.substr(static_cast<size_t>(length) + 1), bytes, modified, changed};
}

void ListSources::add(const std::string& path) {
  sources_.push_back(look_at(path));
  const ListSource& source = sources_.back();
  if (std::max(source.modified, source.changed) > now() - kYoung) certain_ = false;
}

std::vector<std::string> ListSources::texts() const {
  std::vector<std::string> texts;
  if (!certain_) return texts;
  for (const ListSource& source : sources_) texts.push_back(text_of(source));
  return texts;
}

}  // namespace dino
