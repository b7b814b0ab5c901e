// SPDX-License-Identifier: Apache-2.0
#include "storage/tar.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::Scratch;

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

/// What a fault in one byte range of a good tar of two members leads to.
std::vector<TarFault> faults_of(const Scratch& scratch, const std::string& content,
                                size_t* members = nullptr) {
  scratch.put("t.tar", content);
  std::vector<TarFault> faults;
  const auto found = scan_tar(scratch / "t.tar", faults);
  if (members != nullptr) *members = found.size();
  return faults;
}

std::string good_tar(const Scratch& scratch) {
  TarWriter tar(scratch / "good.tar");
  tar.add("a/0.jpg", bytes_of(std::string(700, 'x')));
  tar.add("a/0.json", bytes_of("{}"));
  tar.close();
  return read_text(scratch / "good.tar");
}

/// Puts `size` (12 bytes) into the header at `offset` and mends its checksum.
std::string with_size(std::string tar, size_t offset, const std::string& size) {
  tar.replace(offset + 124, 12, size);
  tar.replace(offset + 148, 8, 8, ' ');
  int sum = 0;
  for (size_t i = 0; i < 512; ++i) sum += static_cast<unsigned char>(tar[offset + i]);
  tar.replace(offset + 148, 7, fmt::format("{:06o}", sum) + '\0');
  return tar;
}

TEST(Tar, ReadsWhatItWrites) {
  const Scratch scratch;
  const std::string deep = std::string(120, 'd') + "/" + std::string(90, 'n') + ".PNG";
  const std::string longest = std::string(300, 'l') + ".png";
  TarWriter tar(scratch / "t.tar");
  tar.add("0001.jpg", bytes_of("abc"));
  tar.add("0001.seg.png", bytes_of(""));
  tar.add(deep, bytes_of(std::string(512, 'z')));
  const int64_t at = tar.add(longest, bytes_of("end"));
  tar.close();
  EXPECT_EQ(file_size(scratch / "t.tar") % 512, 0);
  std::vector<TarFault> faults;
  const auto members = scan_tar(scratch / "t.tar", faults);
  EXPECT_TRUE(faults.empty());
  ASSERT_EQ(members.size(), 4u);
  EXPECT_EQ(members[0].key, "0001");
  EXPECT_EQ(members[0].extension, "jpg");
  EXPECT_EQ(members[0].size, 3);
  EXPECT_EQ(members[1].key, "0001");
  EXPECT_EQ(members[1].extension, "seg.png");
  EXPECT_EQ(members[2].name, deep);
  EXPECT_EQ(members[2].extension, "png");
  EXPECT_EQ(members[3].name, longest);
  EXPECT_EQ(members[3].offset, at);
  const auto data = read_bytes(scratch / "t.tar", at, 3);
  EXPECT_EQ(std::string(data.begin(), data.end()), "end");
}

TEST(Tar, EqualMembersGiveEqualBytes) {
  const Scratch scratch;
  EXPECT_EQ(good_tar(scratch), good_tar(scratch));
}

TEST(Tar, AgreesWithTheSystemsTarInEveryFormat) {
  const Scratch scratch;
  const std::string deep = "in/" + std::string(150, 'd') + "/" + std::string(120, 'n') + ".x.jpg";
  scratch.put("in/a.jpg", "a");
  scratch.put(deep, std::string(3000, 'q'));
  std::filesystem::create_symlink("a.jpg", scratch / "in/link.jpg");
  for (const std::string format : {"gnu", "pax", "ustar"}) {
    if (std::system(("tar --format=" + format + " --sort=name -cf " + (scratch / "s.tar") + " -C " +
                     scratch.folder() + " ./in 2>/dev/null")
                        .c_str()) != 0)
      continue;  // ustar cannot hold the long name
    std::vector<TarFault> faults;
    const auto members = scan_tar(scratch / "s.tar", faults);
    EXPECT_TRUE(faults.empty()) << format << ": " << faults[0].what;
    ASSERT_EQ(members.size(), 2u) << format;
    EXPECT_EQ(members[0].name, "./in/a.jpg");
    EXPECT_EQ(members[0].key, "in/a");
    EXPECT_EQ(members[1].name, "./" + deep);
    EXPECT_EQ(members[1].size, 3000);
    EXPECT_EQ(members[1].extension, "x.jpg");
  }
  good_tar(scratch);
  EXPECT_EQ(std::system(("tar -tf " + (scratch / "good.tar") + " >/dev/null").c_str()), 0);
}

TEST(Tar, FaultsEndTheScanAndKeepWhatWasRead) {
  const Scratch scratch;
  const std::string good = good_tar(scratch);  // header at 0, data 512..1536, header at 1536, data, end
  size_t members = 0;
  EXPECT_TRUE(faults_of(scratch, good, &members).empty());
  EXPECT_EQ(members, 2u);
  struct Case {
    std::string content, what;
    int64_t offset;
    size_t members;
  };
  std::string bad_sum = good;
  bad_sum[1540] ^= 1;
  const std::string negative = "\xff" + std::string(11, '\xff'), huge = "\x80" + std::string(11, '\x7f');
  const std::vector<Case> cases = {
      {"", "empty", 0, 0},
      {good.substr(0, 100), "truncated header", 0, 0},
      {good.substr(0, 600), "truncated member a/0.jpg", 0, 0},
      {good.substr(0, 1600), "truncated header", 1536, 1},
      {good.substr(0, 1536), "no end marker", 1536, 1},
      {bad_sum, "checksum", 1536, 1},
      {std::string(4096, 'j'), "checksum", 0, 0},
      {with_size(good, 1536, negative), "size", 1536, 1},
      {with_size(good, 1536, huge), "size", 1536, 1},
      {with_size(good, 1536, std::string("77777777777\0", 12)), "truncated member", 1536, 1},
      {with_size(good, 1536, std::string("0000000000x\0", 12)), "size", 1536, 1},
  };
  for (const Case& c : cases) {
    const auto faults = faults_of(scratch, c.content, &members);
    ASSERT_EQ(faults.size(), 1u) << c.what;
    EXPECT_NE(faults[0].what.find(c.what), std::string::npos) << faults[0].what;
    EXPECT_EQ(faults[0].offset, c.offset) << c.what;
    EXPECT_EQ(members, c.members) << c.what;
  }
}

TEST(Tar, MalformedPaxRecordsAreFaults) {
  const Scratch scratch;
  for (const std::string record : {"999999999999 path=x\n", "5 pat", "12 size=-5\n\n", "0 path=x\n", "zz"}) {
    TarWriter tar(scratch / "p.tar");
    tar.add("pax", bytes_of(record));
    tar.close();
    std::string content = read_text(scratch / "p.tar");
    content[156] = 'x';
    content = with_size(content, 0, content.substr(124, 12));
    EXPECT_EQ(faults_of(scratch, content).size(), 1u) << record;
  }
}

TEST(Tar, MissingFilesAreNamed) {
  std::vector<TarFault> faults;
  expect_error<MissingInputError>([&] { (void)scan_tar("/no/such.tar", faults); }, "/no/such.tar");
  expect_error<IoError>([] { TarWriter("/no/such/out.tar"); }, "/no/such/out.tar");
}

}  // namespace
}  // namespace dino
