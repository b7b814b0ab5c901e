// SPDX-License-Identifier: Apache-2.0
#pragma once
// Tar files: the headers of those that others wrote, and our own shards. Which members belong together is
// decided in datasets/tar_samples.hpp.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

/// Names beyond this are no names: of those only the beginning is kept.
constexpr int64_t kMaxName = 4096;

struct TarMember {
  std::string name;        ///< as stored; at most kMaxName bytes of it
  int64_t name_bytes = 0;  ///< of the whole name
  int64_t header = 0;      ///< offset of its header
  int64_t offset = 0;      ///< of the data
  int64_t size = 0;
};

struct TarFault {
  int64_t offset = 0;
  std::string what;  ///< one line
  bool lost = true;  ///< something was not read; false: all was, but other readers may stumble
};

/// Reads headers only (ustar, GNU long names and links, pax path, linkpath and size), by lseek. A fault of
/// the structure (bad checksum, truncated member, negative or impossible size) ends the scan: what was read
/// until then is returned, and the fault is added. Hard links are members with their target's data; symbolic
/// links, devices and sparse members are left out, each with a fault; a second archive behind the end marker
/// of the first is read on. MissingInputError when the file cannot be opened.
[[nodiscard]] std::vector<TarMember> scan_tar(const std::string& path, std::vector<TarFault>& faults);

/// "gzip", "zstd", "xz" or "bzip2" by the first bytes of a file; empty for anything else.
[[nodiscard]] std::string_view compression_of(std::span<const uint8_t> first_bytes);

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
