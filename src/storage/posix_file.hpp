// SPDX-License-Identifier: Apache-2.0
#pragma once
// A read-only file descriptor for readers that must check sizes before they believe them.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dino {

/// What the absence of a file means.
enum class Presence {
  unknown,  ///< the user may have named a file that is not there: MissingInputError, at once
  listed  ///< it was there when its folder was listed: a fault of the file system, tried again, then IoError
};

class PosixFile {
 public:
  /// MissingInputError, IoError; DataError for a folder.
  explicit PosixFile(const std::string& path, Presence presence = Presence::unknown);
  ~PosixFile();
  PosixFile(PosixFile&& other) noexcept;
  PosixFile& operator=(PosixFile&&) = delete;
  /// Fills `out` from `offset`; returns the bytes read, fewer only at the end of the file: an end before the
  /// size that it had when it was opened is an IoError. Faults are tried again (base/retry.hpp).
  [[nodiscard]] int64_t read_some(int64_t offset, void* out, int64_t size) const;
  /// The same, but a short read is a DataError that says where the file ends.
  void read_exactly(int64_t offset, void* out, int64_t size) const;
  [[nodiscard]] int64_t size() const { return size_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  [[nodiscard]] int open() const;
  [[nodiscard]] int64_t try_to_read(int64_t offset, void* out, int64_t size) const;
  [[noreturn]] void fail(const char* what) const;
  std::string path_;
  Presence presence_;
  int fd_ = -1;
  int64_t size_ = 0;
};

/// Writes all of it, retrying short writes and EINTR. IoError names `path`.
void write_fully(int fd, const void* data, int64_t size, const std::string& path);

/// Writes the pieces one after another into a new file; messages name `shown` (the final path).
void write_file_pieces(const std::string& temporary, const std::string& shown,
                       const std::vector<std::pair<const void*, int64_t>>& pieces);

}  // namespace dino
