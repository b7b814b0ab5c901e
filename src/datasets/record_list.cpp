// SPDX-License-Identifier: Apache-2.0
#include "datasets/record_list.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "base/error.hpp"
#include "base/working.hpp"
#include "datasets/record_list_format.hpp"
#include "storage/files.hpp"
#include "storage/posix_file.hpp"
#include "storage/seal.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

constexpr int64_t kHeaderBytes = sizeof(RecordListHeader);

}  // namespace

int64_t RecordListHeader::content_bytes() const {
  return heap_bytes + records * static_cast<int64_t>(sizeof(RecordRow)) + note_bytes;
}

RecordList RecordList::open(const std::string& path) {
  RecordList list = open_unchecked(path);
  if (crc32c_part(path, kHeaderBytes, list.header_.content_bytes()) != list.header_.content_crc)
    list.damaged("its checksum differs");
  return list;
}

RecordList RecordList::open_unchecked(const std::string& path) {
  static_cast<void>(PosixFile(path));  // says why it cannot be opened
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw IoError(fmt::format("cannot open: {}: {}", path, std::strerror(errno)));
  return adopt(fd, path);
}

RecordList RecordList::adopt(int fd, const std::string& shown) {
  RecordList list;
  list.path_ = shown;
  list.fd_ = fd;
  list.read_header();
  return list;
}

void RecordList::damaged(const std::string& why) const {
  throw DataError(
      fmt::format("damaged list of images: {}: {}; remove it, the next start makes it anew", path_, why));
}

void RecordList::read_header() {
  struct stat status {};
  if (::fstat(fd_, &status) != 0)
    throw IoError(fmt::format("cannot read: {}: {}", path_, std::strerror(errno)));
  bytes_ = status.st_size;
  if (bytes_ < kHeaderBytes) damaged(fmt::format("it ends at byte {}, within its header", bytes_));
  map_ = FileMapping(fd_, bytes_, FileMapping::Access::read, path_);
  static_cast<void>(::madvise(map_.data(), static_cast<size_t>(bytes_), MADV_RANDOM));
  std::memcpy(&header_, map_.data(), sizeof header_);
  const RecordListHeader& h = header_;
  if (std::string_view(h.magic, sizeof h.magic) != kRecordListMagic) damaged("it is none");
  const auto own = std::as_bytes(std::span(&h, 1)).first(sizeof h - sizeof h.header_crc);
  if (crc32c(own) != h.header_crc) damaged("the checksum of its header differs");
  if (h.version != kRecordListVersion || h.row_bytes != sizeof(RecordRow))
    damaged(fmt::format("version {}, this program reads version {}", h.version, kRecordListVersion));
  const auto fits = [&](int64_t bytes) { return bytes >= 0 && bytes <= bytes_; };
  if (!fits(h.heap_bytes) || !fits(h.records) || !fits(h.note_bytes) ||
      kHeaderBytes + h.content_bytes() != bytes_)
    damaged(fmt::format("{} bytes, its header tells of {}", bytes_, kHeaderBytes + h.content_bytes()));
}

void RecordList::release() noexcept {
  map_ = {};
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

RecordList::~RecordList() {
  release();
}

RecordList::RecordList(RecordList&& other) noexcept {
  *this = std::move(other);
}

RecordList& RecordList::operator=(RecordList&& other) noexcept {
  release();
  path_ = std::move(other.path_);
  fd_ = std::exchange(other.fd_, -1);
  map_ = std::move(other.map_);
  bytes_ = std::exchange(other.bytes_, 0);
  header_ = std::exchange(other.header_, {});
  return *this;
}

/// Moves `offset` behind the text. Nothing is believed: a checksum tells of accidents alone.
std::string RecordList::text_at(int64_t& offset, int64_t end) const {
  uint32_t length = 0;
  constexpr auto kLength = static_cast<int64_t>(sizeof length);
  if (offset < kHeaderBytes || end - offset < kLength) damaged("a text lies outside of it");
  std::memcpy(&length, map_.data() + offset, sizeof length);
  offset += kLength;
  if (length > end - offset) damaged("a text lies outside of it");
  std::string text(reinterpret_cast<const char*>(map_.data()) + offset, length);
  offset += length;
  return text;
}

Record RecordList::at(int64_t index) const {
  DINO_CHECK(index >= 0 && index < count(), "record of a list");
  RecordRow row;
  const int64_t heap_end = kHeaderBytes + header_.heap_bytes;
  std::memcpy(&row, map_.data() + heap_end + index * static_cast<int64_t>(sizeof row), sizeof row);
  if (row.path < 0 || row.texts < 0 || std::max(row.path, row.texts) > header_.heap_bytes)
    damaged("a text lies outside of it");
  Record record;
  record.offset = row.offset;
  record.size = row.size;
  record.label = row.label;
  record.key_label = (row.flags & 1U) != 0;
  int64_t path = kHeaderBytes + row.path, texts = kHeaderBytes + row.texts;
  record.path = text_at(path, heap_end);
  for (std::string* text : {&record.key, &record.extension, &record.group, &record.fault})
    *text = text_at(texts, heap_end);
  // Pages that were touched, and those that the system maps around them, would count as the process's own
  // until the whole file did. The file stays in the system's cache.
  static_cast<void>(::madvise(map_.data(), static_cast<size_t>(bytes_), MADV_DONTNEED));
  return record;
}

std::vector<std::string> RecordList::notes(int64_t first, int64_t count) const {
  std::vector<std::string> texts;
  if (map_.data() == nullptr) return texts;
  int64_t offset = bytes_ - header_.note_bytes;
  for (int64_t i = 0; i < first; ++i) static_cast<void>(text_at(offset, bytes_));
  for (int64_t i = 0; i < count; ++i) texts.push_back(text_at(offset, bytes_));
  return texts;
}

std::string RecordList::reference() const {
  return map_.data() == nullptr ? std::string() : notes(0, 1)[0];
}

std::vector<std::string> RecordList::classes() const {
  return notes(1, header_.classes);
}

std::vector<std::string> RecordList::faults() const {
  return notes(1 + header_.classes, header_.faults);
}

std::vector<ListSource> RecordList::sources() const {
  std::vector<ListSource> sources;
  for (const std::string& text : notes(1 + header_.classes + header_.faults, header_.sources))
    sources.push_back(source_of(text));
  return sources;
}

void RecordList::commit_to(const std::string& path) const {
  commit_file(path, [&](const std::string& temporary) {
    const int out = open_without_links(temporary, O_WRONLY);
    try {
      std::vector<char> chunk(size_t{4} << 20);
      for (int64_t done = 0; done < bytes_;) {
        const ssize_t got = ::pread(fd_, chunk.data(), chunk.size(), done);
        if (got <= 0) throw IoError(fmt::format("cannot read: {}: {}", path_, std::strerror(errno)));
        write_fully(out, chunk.data(), got, path);
        done += got;
        still_working();
      }
    } catch (...) {
      ::close(out);
      throw;
    }
    ::close(out);
  });
}

}  // namespace dino
