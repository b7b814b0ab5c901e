// SPDX-License-Identifier: Apache-2.0
#include "base/file_mapping.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "base/error.hpp"

namespace dino {
namespace {

struct MemoryFile {
  explicit MemoryFile(int64_t bytes) : fd(::memfd_create("test", MFD_CLOEXEC)) {
    if (::ftruncate(fd, bytes) != 0) throw IoError("ftruncate");
  }
  ~MemoryFile() { ::close(fd); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  int fd;
};

TEST(FileMapping, IsFoundByItsAddressesAsLongAsItLives) {
  constexpr int64_t kBytes = 10000;
  const MemoryFile file(kBytes);
  const std::byte* data = nullptr;
  {
    FileMapping map(file.fd, kBytes, FileMapping::Access::write, "a\nb");
    data = map.data();
    map.data()[kBytes - 1] = std::byte{7};
    const FileMapping same(file.fd, kBytes, FileMapping::Access::read, "same");
    EXPECT_EQ(same.data()[kBytes - 1], std::byte{7});
    EXPECT_EQ(same.bytes(), kBytes);
    EXPECT_STREQ(mapped_file_at(data), "a\\x0ab") << "one line";
    EXPECT_STREQ(mapped_file_at(data + kBytes - 1), "a\\x0ab");
    EXPECT_STREQ(mapped_file_at(same.data() + 1), "same");
    EXPECT_EQ(mapped_file_at(data - 1), nullptr);
    EXPECT_EQ(mapped_file_at(&file), nullptr);
    const FileMapping moved = std::move(map);
    EXPECT_EQ(map.data(), nullptr);
    EXPECT_EQ(moved.data(), data);
    EXPECT_STREQ(mapped_file_at(data), "a\\x0ab");
  }
  EXPECT_EQ(mapped_file_at(data), nullptr);
  EXPECT_EQ(mapped_file_at(nullptr), nullptr);
}

TEST(FileMapping, AsManyAsThereAre) {
  const MemoryFile file(4096);
  std::vector<FileMapping> maps(300);
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < maps.size(); ++i)
      maps[i] = FileMapping(file.fd, 4096, FileMapping::Access::read, std::to_string(i));
    for (size_t i = 0; i < maps.size(); ++i)
      EXPECT_EQ(std::string(mapped_file_at(maps[i].data())), std::to_string(i));
  }
}

TEST(FileMapping, SaysWhatCannotBeMapped) {
  try {
    const FileMapping map(-1, 10, FileMapping::Access::read, "x.index");
    FAIL() << "mapped";
  } catch (const IoError& error) {
    EXPECT_EQ(std::string(error.what()), "cannot map: x.index: Bad file descriptor");
  }
}

}  // namespace
}  // namespace dino
