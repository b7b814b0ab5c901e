// SPDX-License-Identifier: Apache-2.0
#include "storage/files.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <span>

#include "base/random.hpp"
#include "storage/hdf5.hpp"
#include "storage/scratch.hpp"
#include "storage/tar.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::Scratch;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

int64_t files_in(const std::string& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

TEST(Files, ReadsBackWhatItCommits) {
  const Scratch scratch;
  write_file_atomically(scratch / "a", "one");
  write_file_atomically(scratch / "a", "two");
  EXPECT_EQ(read_text(scratch / "a"), "two");
  EXPECT_EQ(files_in(scratch.folder()), 1);
  const auto part = read_bytes(scratch / "a", 1, 2);
  EXPECT_EQ(std::string(part.begin(), part.end()), "wo");
  EXPECT_EQ(file_size(scratch / "a"), 3);
  EXPECT_FALSE(read_text("/proc/self/status").empty());  // a file whose size is 0 until it is read
}

TEST(Files, NamesWhatIsMissing) {
  const Scratch scratch;
  expect_error<MissingInputError>([&] { (void)read_text(scratch / "none"); }, scratch / "none",
                                  "No such file");
  expect_error<DataError>([&] { (void)read_text(scratch.folder()); }, "is a folder");
  expect_error<MissingInputError>([&] { (void)file_size(scratch / "none"); }, scratch / "none");
  scratch.put("short", "abc");
  for (const auto& [offset, size] :
       {std::pair<int64_t, int64_t>{2, 2}, {0, INT64_MAX}, {INT64_MAX, 1}, {-1, 1}})
    expect_error<DataError>([&, o = offset, s = size] { (void)read_bytes(scratch / "short", o, s); },
                            "truncated", scratch / "short");
}

TEST(Files, AFailedCommitLeavesTheOldStateAndNothingElse) {
  const Scratch scratch;
  scratch.put("a", "old");
  EXPECT_THROW(commit_file(scratch / "a",
                           [](const std::string& temporary) {
                             std::ofstream(temporary) << "half";
                             throw IoError("stop");
                           }),
               IoError);
  EXPECT_EQ(read_text(scratch / "a"), "old");
  EXPECT_EQ(files_in(scratch.folder()), 1);
  expect_error<IoError>([&] { write_file_atomically(scratch / "no/such/folder/a", "x"); }, "cannot write");
}

TEST(Files, ChecksumsHaveTheirPublishedValues) {
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283u);  // RFC 3720's check value
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\0'))), 0x8a9136aau);
  EXPECT_EQ(crc32c(bytes_of("")), 0u);
  EXPECT_EQ(sha256_hex(bytes_of("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(xxh3(bytes_of("")), 0x2d06800538d394c2ull);
  EXPECT_EQ(hex32(0xabc), "00000abc");
}

TEST(Files, ChecksumsChainCombineAndAgreeWithTheBitwiseDefinition) {
  Random random(1, RandomStream::test, 0);
  std::string text(3001, '\0');
  for (char& c : text) c = static_cast<char>(random.below(256));
  for (const size_t cut : {0u, 1u, 7u, 8u, 1500u, 3000u, 3001u}) {
    const auto whole = bytes_of(text);
    const uint32_t head = crc32c(whole.first(cut)), tail = crc32c(whole.subspan(cut));
    EXPECT_EQ(crc32c(whole.subspan(cut), head), crc32c(whole));
    EXPECT_EQ(crc32c_portable(whole.subspan(cut), head), crc32c(whole));
    EXPECT_EQ(crc32c_portable(whole.first(cut)), head);
    EXPECT_EQ(crc32c_combine(head, tail, static_cast<int64_t>(text.size() - cut)), crc32c(whole));
  }
  uint32_t state = ~0u;
  for (const char c : text) {
    state ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1u) != 0 ? 0x82f63b78u : 0u);
  }
  EXPECT_EQ(crc32c(bytes_of(text)), ~state);
  const Scratch scratch;
  scratch.put("a", text);
  EXPECT_EQ(crc32c_file(scratch / "a"), ~state);
  EXPECT_EQ(sha256_file(scratch / "a"), sha256_hex(bytes_of(text)));
}

TEST(LineWriter, AppendsAndCutsOffAHalfWrittenLine) {
  const Scratch scratch;
  for (const std::string& left :
       {std::string(), std::string("{\"step\":1}\n"), std::string("{\"step\":1}\n{\"ste"),
        std::string("{\"ste"), "{\"step\":1}\n" + std::string(10000, 'x')}) {
    scratch.put("m.jsonl", left);
    LineWriter(scratch / "m.jsonl").write("{\"step\":2}");
    const std::string kept = left.find('\n') == std::string::npos ? "" : "{\"step\":1}\n";
    EXPECT_EQ(read_text(scratch / "m.jsonl"), kept + "{\"step\":2}\n");
  }
  expect_error<IoError>([&] { LineWriter(scratch / "no/m.jsonl"); }, scratch / "no/m.jsonl");
}

TEST(FolderLock, NamesTheHolderAndIsFreedByItsDeath) {
  const Scratch scratch;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const FolderLock lock(scratch / "out");
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    ::pause();
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  expect_error<UsageError>([&] { const FolderLock lock(scratch / "out"); }, "in use", scratch / "out",
                           "pid " + std::to_string(child));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  { const FolderLock lock(scratch / "out"); }
  const FolderLock again(scratch / "out");
  ::close(ready[0]);
  ::close(ready[1]);
}

/// Every writer, on a file system of 256 KiB, in a child so that the mount is its own. Exit code 77: no
/// mount.
int run_on_a_full_disk(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0700) != 0 || ::unshare(CLONE_NEWNS) != 0 ||
      ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=256k") != 0)
    return 77;
  const std::string large(1 << 20, 'x');
  int wrong = 0;
  const auto must_fail = [&](const std::function<void()>& body) {
    try {
      body();
      ++wrong;
    } catch (const IoError& error) {
      if (std::string(error.what()).find(folder) == std::string::npos) ++wrong;
    } catch (...) {
      ++wrong;
    }
    if (path_exists(folder + "/a")) ++wrong;
  };
  must_fail([&] { write_file_atomically(folder + "/a", large); });
  if (files_in(folder) != 0) ++wrong;
  must_fail([&] {
    commit_file(folder + "/a", [&](const std::string& temporary) {
      TarWriter tar(temporary);
      tar.add("x.png", std::span(reinterpret_cast<const uint8_t*>(large.data()), large.size()));
      tar.close();
    });
  });
  must_fail([&] {
    commit_file(folder + "/a", [&](const std::string& temporary) {
      Hdf5File file = Hdf5File::create(temporary);
      file.write("/x", Tensor(Shape{1 << 18}).view());
      file.close();
    });
  });
  if (files_in(folder) != 0) ++wrong;
  {
    LineWriter lines(folder + "/lines");
    lines.write("first");
    must_fail([&] { lines.write(large); });
  }
  if (read_text(folder + "/lines") != "first\n") ++wrong;
  return wrong;
}

TEST(Files, AFullDiskIsAnErrorAndLeavesNothing) {
  const Scratch scratch;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(run_on_a_full_disk(scratch / "disk"));
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no permission to mount a small tmpfs";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace dino
