// SPDX-License-Identifier: Apache-2.0
#include "base/file_mapping.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include "base/error.hpp"
#include "base/text.hpp"

namespace dino {

/// Never freed, and used again: a signal's handler walks them without a lock. The name stands before the
/// range does, and changes only while there is none.
struct MappedRange {
  std::atomic<uintptr_t> begin{0}, end{0};
  std::string shown;
  MappedRange* next = nullptr;
  bool used = false;  ///< under the lock
};

namespace {

std::atomic<MappedRange*> first_range{nullptr};

std::mutex& ranges_lock() {
  static auto* instance = new std::mutex;
  return *instance;
}

MappedRange* add_range(const std::byte* data, int64_t bytes, const std::string& shown) {
  const std::lock_guard lock(ranges_lock());
  MappedRange* range = first_range.load();
  while (range != nullptr && range->used) range = range->next;
  if (range == nullptr) {
    range = new MappedRange;
    range->next = first_range.load();
    first_range.store(range);
  }
  range->used = true;
  range->shown = printable_line(shown);
  range->end.store(reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes));
  range->begin.store(reinterpret_cast<uintptr_t>(data));
  return range;
}

void remove_range(MappedRange* range) noexcept {
  const std::lock_guard lock(ranges_lock());
  range->begin.store(0);
  range->end.store(0);
  range->used = false;
}

}  // namespace

FileMapping::FileMapping(int fd, int64_t bytes, Access access, const std::string& shown) : bytes_(bytes) {
  const int protection = access == Access::read ? PROT_READ : PROT_READ | PROT_WRITE;
  void* map = ::mmap(nullptr, static_cast<size_t>(bytes), protection, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) throw IoError(fmt::format("cannot map: {}: {}", shown, std::strerror(errno)));
  data_ = static_cast<std::byte*>(map);
  range_ = add_range(data_, bytes, shown);
}

void FileMapping::release() noexcept {
  if (data_ == nullptr) return;
  remove_range(range_);
  ::munmap(data_, static_cast<size_t>(bytes_));
  data_ = nullptr;
}

FileMapping::~FileMapping() {
  release();
}

FileMapping::FileMapping(FileMapping&& other) noexcept {
  *this = std::move(other);
}

FileMapping& FileMapping::operator=(FileMapping&& other) noexcept {
  release();
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  range_ = std::exchange(other.range_, nullptr);
  return *this;
}

const char* mapped_file_at(const void* address) noexcept {
  const auto at = reinterpret_cast<uintptr_t>(address);
  for (const MappedRange* range = first_range.load(); range != nullptr; range = range->next)
    if (const uintptr_t begin = range->begin.load(); begin != 0 && at >= begin && at < range->end.load())
      return range->shown.c_str();
  return nullptr;
}

}  // namespace dino
