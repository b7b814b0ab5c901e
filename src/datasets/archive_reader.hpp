// SPDX-License-Identifier: Apache-2.0
#pragma once
// Reading packed files through libarchive, with what they unpack to bounded. DataError names the file.

#include <archive.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dino {

struct FreeArchive {
  void operator()(archive* handle) const { archive_read_free(handle); }
};
using ArchiveReader = std::unique_ptr<archive, FreeArchive>;

[[noreturn]] void fail_unpack(const std::string& path, const ArchiveReader& reader);
void open_archive(const ArchiveReader& reader, const std::string& path);
/// Data of the entry that the reader stands at; `total` counts over all entries of the file: at most 1 GiB.
[[nodiscard]] std::vector<uint8_t> read_entry(const ArchiveReader& reader, const std::string& path,
                                              size_t& total);
[[nodiscard]] std::vector<uint8_t> gunzip(const std::string& path);

}  // namespace dino
