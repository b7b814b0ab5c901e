// SPDX-License-Identifier: Apache-2.0
#include "datasets/archive_reader.hpp"

#include <archive_entry.h>
#include <fmt/format.h>

#include "base/error.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr size_t kMostBytes = size_t{1} << 30;  ///< unpacked, of one input file

}  // namespace

void fail_unpack(const std::string& path, const ArchiveReader& reader) {
  const char* why = archive_error_string(reader.get());
  throw DataError(fmt::format("cannot unpack: {}: {}", path, why == nullptr ? "unknown format" : why));
}

void open_archive(const ArchiveReader& reader, const std::string& path) {
  static_cast<void>(read_bytes(path, 0, 0));  // a missing file as such
  if (archive_read_open_filename(reader.get(), path.c_str(), 1 << 16) != ARCHIVE_OK)
    fail_unpack(path, reader);
}

std::vector<uint8_t> read_entry(const ArchiveReader& reader, const std::string& path, size_t& total) {
  std::vector<uint8_t> bytes, chunk(1 << 16);
  while (true) {
    const auto got = archive_read_data(reader.get(), chunk.data(), chunk.size());
    if (got < 0) fail_unpack(path, reader);
    if (got == 0) return bytes;
    bytes.insert(bytes.end(), chunk.begin(), chunk.begin() + got);
    total += static_cast<size_t>(got);
    if (total > kMostBytes)
      throw DataError(fmt::format("cannot unpack: {}: more than {} bytes", path, kMostBytes));
  }
}

std::vector<uint8_t> gunzip(const std::string& path) {
  const ArchiveReader reader(archive_read_new());
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_format_raw(reader.get());
  open_archive(reader, path);
  archive_entry* entry = nullptr;
  if (archive_read_next_header(reader.get(), &entry) != ARCHIVE_OK) fail_unpack(path, reader);
  size_t total = 0;
  return read_entry(reader, path, total);
}

}  // namespace dino
