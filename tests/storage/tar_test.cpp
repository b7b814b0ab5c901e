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

std::span<const uint8_t> octets_of(const std::string& text) {
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
  tar.add("a/0.jpg", octets_of(std::string(700, 'x')));
  tar.add("a/0.json", octets_of("{}"));
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
  tar.add("0001.jpg", octets_of("abc"));
  tar.add("0001.seg.png", octets_of(""));
  tar.add(deep, octets_of(std::string(512, 'z')));
  const int64_t at = tar.add(longest, octets_of("end"));
  tar.close();
  EXPECT_EQ(file_size(scratch / "t.tar") % 512, 0);
  std::vector<TarFault> faults;
  const auto members = scan_tar(scratch / "t.tar", faults);
  EXPECT_TRUE(faults.empty());
  ASSERT_EQ(members.size(), 4u);
  EXPECT_EQ(members[0].size, 3);
  EXPECT_EQ(members[2].name, deep);
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
    ASSERT_EQ(faults.size(), 1u) << format;
    EXPECT_NE(faults[0].what.find("symbolic link ./in/link.jpg: left out"), std::string::npos)
        << faults[0].what;
    ASSERT_EQ(members.size(), 2u) << format;
    EXPECT_EQ(members[0].name, "./in/a.jpg");
    EXPECT_EQ(members[1].name, "./" + deep);
    EXPECT_EQ(members[1].size, 3000);
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
    tar.add("pax", octets_of(record));
    tar.close();
    std::string content = read_text(scratch / "p.tar");
    content[156] = 'x';
    content = with_size(content, 0, content.substr(124, 12));
    EXPECT_EQ(faults_of(scratch, content).size(), 1u) << record;
  }
}

/// A header of any type, with a checksum that fits.
std::string header_of(const std::string& name, char type, size_t size, const std::string& link = "") {
  std::string h(512, '\0');
  h.replace(0, name.size(), name);
  h.replace(100, 7, "0000644");
  h.replace(124, 11, fmt::format("{:011o}", size));
  h[156] = type;
  h.replace(157, link.size(), link);
  h.replace(257, 8,
            std::string("ustar\0"
                        "00",
                        8));
  return with_size(h, 0, h.substr(124, 12));
}

std::string blocks(std::string data) {
  data.resize((data.size() + 511) / 512 * 512, '\0');
  return data;
}

TEST(Tar, WhatIsNoPlainFileIsTold) {
  const Scratch scratch;
  const std::string end(1024, '\0'), file = header_of("a.jpg", '0', 3) + blocks("abc");
  struct Case {
    std::string content, what;
    size_t members;
    bool lost;
  };
  const std::vector<Case> cases = {
      {file + header_of("b.jpg", '1', 0, "a.jpg") + end, "hard link b.jpg to a.jpg", 2, false},
      {file + header_of("b.jpg", '1', 0, "c.jpg") + end,
       "hard link b.jpg: left out; there is no member c.jpg", 1, true},
      {file + header_of("b.jpg", '2', 0, "/etc/passwd") + end, "symbolic link b.jpg: left out", 1, true},
      {file + header_of("null", '3', 0) + end, "device null", 1, true},
      {file + header_of("disk", '4', 0) + end, "device disk", 1, true},
      {file + header_of("pipe", '6', 0) + end, "pipe pipe", 1, true},
      {file + header_of("odd\n", 'Q', 3) + blocks("xyz") + file + end, "unknown type 'Q' odd\\x0a", 2, true},
      {file + header_of("", '0', 3) + blocks("xyz") + end, "without a name", 1, true},
      {file + end + file + end, "joined archives", 2, false},
      {file + end + std::string(9216, '\0') + file + end, "joined archives", 2, false},
      {file + end + blocks("trailing"), "512 bytes of other data behind the end marker at 1024", 1, true},
      {std::string("\x1f\x8b\x08\0", 4) + file, "compressed (gzip)", 0, true},
      {"\x28\xb5\x2f\xfd" + file, "compressed (zstd)", 0, true},
  };
  for (const Case& c : cases) {
    size_t members = 0;
    const auto faults = faults_of(scratch, c.content, &members);
    ASSERT_EQ(faults.size(), 1u) << c.what;
    EXPECT_NE(faults[0].what.find(c.what), std::string::npos) << faults[0].what;
    EXPECT_EQ(members, c.members) << c.what;
    EXPECT_EQ(faults[0].lost, c.lost) << c.what;
  }
  scratch.put("t.tar", cases[0].content);
  std::vector<TarFault> faults;
  const auto members = scan_tar(scratch / "t.tar", faults);
  EXPECT_EQ(members[1].name, "b.jpg");
  EXPECT_EQ(members[1].offset, members[0].offset);
  // Folders, and zeros up to the record of a tape, are no faults.
  EXPECT_TRUE(faults_of(scratch, header_of("d/", '5', 0) + file + std::string(20'480, '\0')).empty());
}

TEST(Tar, LongNamesTakeNoMemoryAndLoseNoOther) {
  const Scratch scratch;
  const std::string end(1024, '\0'), file = header_of("short.jpg", '0', 3) + blocks("abc");
  const std::string name(3'000'000, 'n'), at_limit(kMaxName, 'm');
  const auto gnu = [&](const std::string& n) {
    return header_of("././@LongLink", 'L', n.size() + 1) + blocks(n + '\0') + file;
  };
  const auto pax = [&](const std::string& n) {
    std::string record = " path=" + n + "\n";
    size_t size = record.size() + 1;
    while (std::to_string(size).size() + record.size() != size) ++size;
    record = std::to_string(size) + record;
    return header_of("pax", 'x', record.size()) + blocks(record) + file;
  };
  for (const auto& [content, bytes] :
       std::vector<std::pair<std::string, int64_t>>{{gnu(name), 3'000'000},
                                                    {gnu(at_limit), kMaxName},
                                                    {pax(at_limit), kMaxName},
                                                    {pax(std::string(9000, 'p')), 9000}}) {
    scratch.put("t.tar", content + file + end);
    std::vector<TarFault> faults;
    const auto members = scan_tar(scratch / "t.tar", faults);
    EXPECT_TRUE(faults.empty());
    ASSERT_EQ(members.size(), 2u);
    EXPECT_EQ(members[0].name_bytes, bytes);
    EXPECT_EQ(static_cast<int64_t>(members[0].name.size()), std::min(bytes, kMaxName));
    EXPECT_EQ(members[1].name, "short.jpg");
  }
  // A pax header beyond its limit: the member has the name of its own header, and is known to have no name.
  scratch.put("t.tar", pax(name) + file + end);
  std::vector<TarFault> faults;
  const auto members = scan_tar(scratch / "t.tar", faults);
  ASSERT_EQ(members.size(), 2u);
  EXPECT_GT(members[0].name_bytes, kMaxName);
}

TEST(Tar, MissingFilesAreNamed) {
  std::vector<TarFault> faults;
  expect_error<MissingInputError>([&] { (void)scan_tar("/no/such.tar", faults); }, "/no/such.tar");
  expect_error<IoError>([] { TarWriter("/no/such/out.tar"); }, "/no/such/out.tar");
}

}  // namespace
}  // namespace dino
