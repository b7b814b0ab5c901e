// SPDX-License-Identifier: Apache-2.0
// Which members of a tar belong together, and what becomes of the others.
#include "datasets/tar_samples.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "datasets/dataset.hpp"
#include "datasets/samples.hpp"
#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::kJpeg;
using testing::kPng;
using testing::Members;
using testing::put_tar;
using testing::Scratch;

/// key -> "extension extension ..." of its sidecars, in order; label names behind '='.
std::map<std::string, std::string> samples_of(const Dataset& dataset) {
  std::map<std::string, std::string> out;
  for (size_t i = 0; i < dataset.records.size(); ++i) {
    const Record& record = dataset.records[i];
    std::string& text = out[record.key];
    text = record.extension;
    for (const Sidecar& sidecar : dataset.sidecars)
      if (sidecar.record == static_cast<int64_t>(i)) text += " " + sidecar.extension;
    if (record.label >= 0) text += " = " + dataset.classes[static_cast<size_t>(record.label)];
  }
  return out;
}

class TarSamplesTest : public ::testing::Test {
 protected:
  Dataset open(const Members& members) {
    put_tar(scratch_ / "t.tar", members);
    return open_dataset(scratch_ / "t.tar");
  }
  std::map<std::string, std::string> group(const Members& members) { return samples_of(open(members)); }
  Scratch scratch_;
};

TEST_F(TarSamplesTest, SidecarsBelongToTheLongestKey) {
  using Groups = std::map<std::string, std::string>;
  // Dots in keys, as of measured values and versions.
  EXPECT_EQ(group({{"d/0.05.png", kPng},
                   {"d/0.05.cls", "3"},
                   {"d/0.05.json", "{}"},
                   {"d/0.5.png", kPng},
                   {"d/0.5.cls", "1"}}),
            (Groups{{"t/d/0.05", "png cls json = 3"}, {"t/d/0.5", "png cls = 1"}}));
  EXPECT_EQ(group({{"v1.0_A.png", kPng}, {"v1.0_a.png", kPng}, {"v1.0_a.json", "{}"}}),
            (Groups{{"t/v1.0_A", "png"}, {"t/v1.0_a", "png json"}}));
  // Before their image, apart from it, in other letters; two kinds of text with more than one dot.
  EXPECT_EQ(group({{"a.CLS", "2"},
                   {"b.1.txt", "b"},
                   {"a.JSON", "{}"},
                   {"b.1.JPG", kJpeg},
                   {"a.jpg", kJpeg},
                   {"a.caption.txt", "a"}}),
            (Groups{{"t/a", "jpg cls json caption.txt = 2"}, {"t/b.1", "jpg txt"}}));
  // Maps describe an image where there is one, and are images where there is none.
  EXPECT_EQ(group({{"a.jpg", kJpeg},
                   {"a.seg.png", kPng},
                   {"a.depth.png", kPng},
                   {"b.mask.png", kPng},
                   {"a.1.png", kPng},
                   {"a.depth", "P5\n"}}),
            (Groups{{"t/a", "jpg seg.png depth.png depth"}, {"t/a.1", "png"}, {"t/b.mask", "png"}}));
  // Two images of one key share what lies beside it; so do two views.
  EXPECT_EQ(group({{"a.png", kPng}, {"a.jpg", kJpeg}, {"a.cls", "0"}}),
            (Groups{{"t/a", "png cls = 0"}, {"t/a.jpg", "jpg cls = 0"}}));
  EXPECT_EQ(group({{"s.left.png", kPng}, {"s.right.png", kPng}, {"s.cls", "1"}, {"s.left.cls", "0"}}),
            (Groups{{"t/s.left", "png cls = 0"}, {"t/s.right", "png cls = 1"}}));
  // The same kind twice: the first counts.
  EXPECT_EQ(group({{"a.png", kPng}, {"a.cls", "1"}, {"a.CLS", "0"}}), (Groups{{"t/a", "png cls = 1"}}));
  // Classes: numbers with zeros before them are numbers, marks of byte order are none; UTF-16 is told.
  EXPECT_EQ(group({{"a.png", kPng},
                   {"a.cls",
                    "\xef\xbb\xbf"
                    "007\r\n"},
                   {"b.png", kPng},
                   {"b.cls", "7 "},
                   {"c.png", kPng},
                   {"c.cls", std::string("\xff\xfe"
                                         "1\0",
                                         4)}}),
            (Groups{{"t/a", "png cls = 7"}, {"t/b", "png cls = 7"}, {"t/c", "png cls"}}));
}

TEST_F(TarSamplesTest, NothingVanishesUncounted) {
  const Dataset dataset = open({{"photo", kPng},
                                {"0.05", kPng},
                                {"0.05.json", "{}"},
                                {"wrong.dat", kJpeg},
                                {"wrong.txt", "caption"},
                                {"lonely.json", "{}"},
                                {"notes.md", "x"},
                                {"picture.txt", kPng},
                                {"._a.jpg", "resource fork"},
                                {"__MACOSX/a.jpg", "x"},
                                {"d/Thumbs.db", "x"},
                                {"text.jpg", "a record that does not decode"},
                                {"empty.png", ""}});
  EXPECT_EQ(samples_of(dataset), (std::map<std::string, std::string>{{"t/photo", "png"},
                                                                     {"t/0.05", "png json"},
                                                                     {"t/wrong", "jpg txt"},
                                                                     {"t/picture", "png"},
                                                                     {"t/text", "jpg"},
                                                                     {"t/empty", "png"}}));
  EXPECT_EQ(dataset.passed_over, 5);
  ASSERT_EQ(dataset.faults.size(), 2U);
  EXPECT_NE(dataset.faults[0].find("lonely.json: 2 such members: passed over"), std::string::npos)
      << dataset.faults[0];
  EXPECT_NE(dataset.faults[1].find("3 hidden"), std::string::npos);
}

TEST_F(TarSamplesTest, LongNamesAndLargeSidecars) {
  const std::string endless = "deep/" + std::string(1'000'000, 'x') + ".png";
  const std::string most(4090, 'y');
  const Dataset dataset = open({{endless, kPng},
                                {most + ".png", kPng},
                                {"a.png", kPng},
                                {"a.json", std::string((16 << 20) + 1, 'j')},
                                {"a.txt", "t"}});
  ASSERT_EQ(dataset.records.size(), 3U);
  EXPECT_NE(dataset.records[0].fault.find("1000009 bytes, the limit is 4096"), std::string::npos)
      << dataset.records[0].fault;
  EXPECT_LT(dataset.records[0].key.size(), 200U);
  testing::expect_error<DataError>([&] { (void)read_record(dataset.records[0]); }, "the limit is 4096");
  EXPECT_EQ(dataset.records[1].key, "t/" + most);
  EXPECT_EQ(read_record(dataset.records[1]).size(), kPng.size());
  EXPECT_EQ(samples_of(dataset)["t/a"], "png txt");
  ASSERT_EQ(dataset.faults.size(), 1U);
  EXPECT_NE(dataset.faults[0].find("a.json: 1 such members: left out"), std::string::npos);
}

TEST_F(TarSamplesTest, NamesOfAnyBytesBecomeText) {
  const Dataset dataset = open({{"new\nline.png", kPng},
                                {"\x1b[31mred.png", kPng},
                                {"latin\xe4.png", kPng},
                                {"back\\x41.png", kPng},
                                {"\xe6\xbc\xa2.png", kPng}});
  std::set<std::string> keys;
  for (const Record& record : dataset.records) keys.insert(record.key);
  EXPECT_EQ(keys, (std::set<std::string>{"t/new\\x0aline", "t/\\x1b[31mred", "t/latin\\xe4", "t/back\\x5cx41",
                                         "t/\xe6\xbc\xa2"}));
}

TEST_F(TarSamplesTest, ManyMembersOfOneKeyTakeNoLongerThanOthers) {
  Members members;
  for (int i = 0; i < 20'000; ++i) members.emplace_back("same.png", kPng);
  for (int i = 0; i < 20'000; ++i) members.emplace_back("same.json", "{}");
  const Dataset dataset = open(members);
  EXPECT_EQ(dataset.records.size(), 20'000U);
  EXPECT_EQ(dataset.records[2].key, "t/same.png~2");
}

// ---- compressed tars

TEST_F(TarSamplesTest, CompressedTarsAreUnpackedOnce) {
  ::setenv("DINO_DATA", (scratch_ / "cache").c_str(), 1);
  const auto shell = [&](const std::string& command) {
    return std::system(("cd " + scratch_.folder() + " && " + command).c_str()) == 0;
  };
  put_tar(scratch_ / "t.tar", {{"d/1.5.png", kPng}, {"d/1.5.cls", "4"}, {"d/2.png", kPng + "2"}});
  const std::map<std::string, std::string> expected = {{"t/d/1.5", "png cls = 4"}, {"t/d/2", "png"}};
  ASSERT_EQ(samples_of(open_dataset(scratch_ / "t.tar")), expected);
  const std::vector<std::pair<std::string, std::string>> kinds = {{"t.tar.gz", "gzip -c t.tar"},
                                                                  {"t.tgz", "gzip -c t.tar"},
                                                                  {"t.tar.bz2", "bzip2 -c t.tar"},
                                                                  {"t.tar.xz", "xz -c t.tar"},
                                                                  {"t.tar.zst", "zstd -qc t.tar"}};
  for (const auto& [name, command] : kinds) {
    if (!shell(command + " >" + name + " 2>/dev/null")) continue;  // not every machine has every packer
    for (int again = 0; again < 2; ++again) {
      const Dataset dataset = open_dataset(scratch_ / name);
      EXPECT_EQ(samples_of(dataset), expected) << name;
      EXPECT_TRUE(dataset.faults.empty());
      const auto bytes = read_record(dataset.records[1]);
      EXPECT_EQ(std::string(bytes.begin(), bytes.end()), kPng + "2");
    }
  }
  // By content: a .tar that is compressed, and a .tar.gz that is not.
  std::filesystem::create_directories(scratch_ / "mixed");
  ASSERT_TRUE(shell("gzip -c t.tar >mixed/a.tar && cp t.tar mixed/b.tar.gz"));
  EXPECT_EQ(open_dataset(scratch_ / "mixed").records.size(), 4U);
  // What can be unpacked of one that was cut off, and nothing of a bomb.
  put_tar(scratch_ / "t.tar", {{"a.png", kPng + std::string(300'000, 'a')}, {"b.png", kPng}});
  ASSERT_TRUE(shell("gzip -c t.tar | head -c 300 >cut.tgz"));
  const Dataset cut = [&] {
    try {
      return open_dataset(scratch_ / "cut.tgz");
    } catch (const DataError& error) {
      Dataset none;
      none.faults.push_back(error.what());
      return none;
    }
  }();
  ASSERT_FALSE(cut.faults.empty());
  EXPECT_NE(cut.faults[0].find("cut.tgz"), std::string::npos) << cut.faults[0];
  ASSERT_TRUE(shell("head -c 300000000 /dev/zero | gzip -9 >bomb.tar.gz"));
  testing::expect_error<DataError>([&] { (void)open_dataset(scratch_ / "bomb.tar.gz"); }, "bomb.tar.gz",
                                   "unpacks to more than");
  ::unsetenv("DINO_DATA");
}

}  // namespace
}  // namespace dino
