// SPDX-License-Identifier: Apache-2.0
#pragma once
// Whole-file helpers and the commit protocol: written under a temporary name, fsynced, renamed; the folder
// fsynced. A killed run leaves the old state or the new.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct stat;

namespace dino {

[[nodiscard]] std::string read_text(const std::string& path);  ///< MissingInputError, IoError
[[nodiscard]] std::vector<uint8_t> read_bytes(const std::string& path, int64_t offset = 0, int64_t size = -1);
/// The bytes of a file, or of a part of it, that a listing told of, whole: `size` is that of the listing (-1
/// = not known, the whole file), and offset 0 with a size stands for a whole file. Another size, a short read
/// or a file that is gone is a fault of the file system: tried again for --retry-seconds, then IoError.
[[nodiscard]] std::vector<uint8_t> read_listed(const std::string& path, int64_t offset = 0,
                                               int64_t size = -1);
[[nodiscard]] int64_t listed_size(const std::string& path);
/// Commits atomically: a new file of a random name beside it (storage/temporary.hpp) -> fsync -> rename ->
/// fsync of the folder. Short writes and a full disk are IoError, and nothing is left behind.
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
/// stat(2), repeated after failures that may pass (base/retry.hpp); false for a path that is not there or not
/// reached.
[[nodiscard]] bool find_status(const std::string& path, struct stat& status);
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
/// last line that a killed run left. A link in its place is not followed: IoError.
class LineWriter {
 public:
  explicit LineWriter(std::string path);
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;
  void write(std::string_view line);
  /// Network file systems tell of a full disk only here: fsync and close, IoError.
  void close();

 private:
  std::string path_;
  int fd_ = -1;
};

/// Exclusive use of an output folder: OUT/.lock holds host, pid, time and Slurm job. Held by rank 0. Throws
/// UsageError that names the holder when another live process has it (flock, so a killed holder frees it).
/// Where the file system has no flock, every start puts a file .lock.claim.<random> with its process and a
/// beating counter beside it; one of a dead process, or of another host that is silent for a minute, is
/// removed.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  /// Does a process hold the folder's lock? Changes nothing.
  [[nodiscard]] static bool is_held(const std::string& folder);

 private:
  class Claim;
  int fd_ = -1;
  std::unique_ptr<Claim> claim_;  ///< where flock does not work
};

/// Tests only: how long another host's claim may be silent, and the time between two beats of ours.
void set_claim_seconds(double silence, double beat);

}  // namespace dino
