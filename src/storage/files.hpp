// SPDX-License-Identifier: Apache-2.0
#pragma once
// Whole-file helpers and the commit protocol: written under a temporary name, fsynced, renamed; the folder
// fsynced. A killed run leaves the old state or the new.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

[[nodiscard]] std::string read_text(const std::string& path);  ///< MissingInputError, IoError
[[nodiscard]] std::vector<uint8_t> read_bytes(const std::string& path, int64_t offset = 0, int64_t size = -1);
/// Commits atomically: path.tmp.<pid> -> fsync -> rename -> fsync of the folder. Short writes and a full disk
/// are IoError, and nothing is left behind.
void write_file_atomically(const std::string& path, std::string_view content);
/// The same with a writer that fills the temporary path itself (an HDF5 file, a tar).
void commit_file(const std::string& path, const std::function<void(const std::string& temporary)>& write);
/// UsageError when `path` is there and is not a file: a rename would replace a device, or fail at the end.
void check_replaceable(const std::string& path);
void fsync_file(const std::string& path);
void fsync_folder(const std::string& path);
void make_folders(const std::string& path);
/// rename(2) of a folder or file, then fsync of the parent.
void rename_durably(const std::string& from, const std::string& to);
[[nodiscard]] bool path_exists(const std::string& path);
[[nodiscard]] bool is_folder(const std::string& path);
[[nodiscard]] int64_t file_size(const std::string& path);

/// CRC32C (Castagnoli), by SSE4.2 where the CPU has it. Chain by passing the previous value.
[[nodiscard]] uint32_t crc32c(std::span<const std::byte> bytes, uint32_t previous = 0);
/// The same by a table, for any CPU: what the fast one is tested against.
[[nodiscard]] uint32_t crc32c_portable(std::span<const std::byte> bytes, uint32_t previous = 0);
[[nodiscard]] uint32_t crc32c_file(const std::string& path);
/// Combines crc(A) and crc(B) into crc(AB).
[[nodiscard]] uint32_t crc32c_combine(uint32_t first, uint32_t second, int64_t second_bytes);
[[nodiscard]] std::string sha256_hex(std::span<const std::byte> bytes);
[[nodiscard]] std::string sha256_file(const std::string& path);
[[nodiscard]] uint64_t xxh3(std::span<const std::byte> bytes);
[[nodiscard]] std::string hex32(uint32_t value);  ///< 8 hex digits

/// Appends one line and flushes it in one write(2); for JSON Lines with one writer. Cuts off a half-written
/// last line that a killed run left.
class LineWriter {
 public:
  explicit LineWriter(std::string path);
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;
  void write(std::string_view line);

 private:
  std::string path_;
  int fd_ = -1;
};

/// Exclusive use of an output folder: OUT/.lock holds host, pid, time and Slurm job. Held by rank 0. Throws
/// UsageError that names the holder when another live process has it (flock, so a killed holder frees it).
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  /// Does a process hold the folder's lock? Changes nothing.
  [[nodiscard]] static bool is_held(const std::string& folder);

 private:
  int fd_ = -1;
};

}  // namespace dino
