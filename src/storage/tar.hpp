// SPDX-License-Identifier: Apache-2.0
#pragma once
// WebDataset shards: tar members grouped by key (the path up to the first dot of its base name).

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace dino {

struct TarMember {
  std::string name;       ///< full member name
  std::string key;        ///< without extension
  std::string extension;  ///< after the first dot, lower case, without the dot
  int64_t offset = 0;     ///< of the data
  int64_t size = 0;
};

struct TarFault {
  int64_t offset = 0;
  std::string what;  ///< one line
};

/// Reads headers only (ustar, GNU long names, pax path and size), by lseek. A fault (bad checksum, truncated
/// member, negative or impossible size) ends the scan: what was read until then is returned, and the fault is
/// added. MissingInputError when the file cannot be opened.
[[nodiscard]] std::vector<TarMember> scan_tar(const std::string& path, std::vector<TarFault>& faults);

/// Writes ustar with fixed owner, mode and time, so that equal members give equal bytes. 512-byte records,
/// two zero blocks at the end.
class TarWriter {
 public:
  explicit TarWriter(const std::string& path);
  ~TarWriter();
  TarWriter(const TarWriter&) = delete;
  TarWriter& operator=(const TarWriter&) = delete;
  /// Returns the offset of the data.
  int64_t add(const std::string& name, std::span<const uint8_t> data);
  void close();  ///< end blocks, fsync; IoError

 private:
  void write(const void* data, size_t size);
  std::string path_;
  int fd_ = -1;
  int64_t offset_ = 0;
};

}  // namespace dino
