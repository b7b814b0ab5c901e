// SPDX-License-Identifier: Apache-2.0
#pragma once
// Files that are mapped into memory. A read of a mapping has nobody to return an error to: where the disk
// fails under it, or the file was cut meanwhile, the process gets SIGBUS. Mappings are therefore known by
// their addresses, so that the handler of that signal can name the file (comm/last_words.hpp).

#include <cstddef>
#include <cstdint>
#include <string>

namespace dino {

class FileMapping {
 public:
  enum class Access : uint8_t { read, write };

  FileMapping() = default;  ///< of nothing
  /// Maps the first `bytes` of an open file, shared with all who map it. `shown` is what messages call it.
  /// IoError "cannot map: SHOWN: why".
  FileMapping(int fd, int64_t bytes, Access access, const std::string& shown);
  ~FileMapping();
  FileMapping(FileMapping&& other) noexcept;
  FileMapping& operator=(FileMapping&& other) noexcept;

  [[nodiscard]] std::byte* data() const { return data_; }  ///< null: of nothing
  [[nodiscard]] int64_t bytes() const { return bytes_; }

 private:
  void release() noexcept;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  struct MappedRange* range_ = nullptr;
};

/// What messages call the file that is mapped at this address; null: none is. Async-signal-safe.
[[nodiscard]] const char* mapped_file_at(const void* address) noexcept;

}  // namespace dino
