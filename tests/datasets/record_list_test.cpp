// SPDX-License-Identifier: Apache-2.0
#include "datasets/record_list.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <span>

#include "base/timing.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/on_all_ranks.hpp"
#include "datasets/record_list_writer.hpp"
#include "datasets/samples.hpp"
#include "storage/scratch.hpp"
#include "storage/seal.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::kJpeg;
using testing::kPng;
using testing::Members;
using testing::put_tar;
using testing::Scratch;

uint64_t hash_of(const std::vector<Record>& records) {
  std::string text;
  for (const Record& record : records) text += fmt::format("{}\t{}\n", record.key, record.size);
  return xxh3(std::as_bytes(std::span(text)));
}

void expect_equal(const Record& a, const Record& b) {
  EXPECT_EQ(a.key, b.key);
  EXPECT_EQ(a.path, b.path) << a.key;
  EXPECT_EQ(a.offset, b.offset) << a.key;
  EXPECT_EQ(a.size, b.size) << a.key;
  EXPECT_EQ(a.label, b.label) << a.key;
  EXPECT_EQ(a.extension, b.extension) << a.key;
  EXPECT_EQ(a.group, b.group) << a.key;
  EXPECT_EQ(a.fault, b.fault) << a.key;
  EXPECT_EQ(a.key_label, b.key_label) << a.key;
}

/// The list of a reference, made in memory, is what open_dataset gives.
void expect_same_as_dataset(const std::string& reference, size_t records) {
  SCOPED_TRACE(reference);
  const Dataset dataset = open_dataset(reference);
  const RecordList list = list_images({reference}, "", "", Communicator::self());
  ASSERT_EQ(dataset.records.size(), records);
  ASSERT_EQ(list.count(), static_cast<int64_t>(records));
  for (size_t i = 0; i < records; ++i) expect_equal(list.at(static_cast<int64_t>(i)), dataset.records[i]);
  EXPECT_EQ(list.classes(), dataset.classes);
  EXPECT_EQ(list.faults(), dataset.faults);
  EXPECT_EQ(list.reference(), reference);
  EXPECT_EQ(list.hash(), hash_of(dataset.records));
}

TEST(RecordList, FoldersAndLists) {
  const Scratch scratch;
  for (const char* name : {"d/dog/b.PNG", "d/cat/deep/a.jpg", "d/dog/b.jpg", "d/top.jpeg"})
    scratch.put(name, "x");
  scratch.put("d/README.txt", "no image");
  scratch.put("d/dog/told", kPng);
  expect_same_as_dataset(scratch / "d", 5);
  for (const char* name : {"p/train/cat/1.jpg", "p/train/dog/2.jpg", "p/val/cat/3.jpg", "p/val/4.jpg"})
    scratch.put(name, "x");
  expect_same_as_dataset(scratch / "p", 4);
  scratch.put("list.txt", "d/dog/b.PNG\tb\nd/top.jpeg\td\nnone.jpg\nd/dog/b.jpg\n");
  expect_same_as_dataset(scratch / "list.txt", 3);
}

TEST(RecordList, Tars) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "t");
  put_tar(scratch / "t/a.tar", {{"cat/1.jpg", kJpeg}, {"cat/1.json", "{}"}, {"dog/2.png", kPng}});
  put_tar(scratch / "t/b.tar", {{"dog/1.jpg", kJpeg}, {"dog/1.png", kPng}, {"x.bin", "?"}, {"3.jpg", kJpeg}});
  expect_same_as_dataset(scratch / "t", 5);
  expect_same_as_dataset(scratch / "t/b.tar", 3);
  scratch.put("t/beside/dog/9.jpg", kJpeg);
  scratch.put("t/cut.tar", "no tar");
  expect_same_as_dataset(scratch / "t", 6);
  // Labels from sidecars: numbers, with names for them, and one that is a name.
  std::filesystem::create_directories(scratch / "n");
  put_tar(scratch / "n/a.tar", {{"1.jpg", kJpeg}, {"1.cls", "2"}, {"2.jpg", kJpeg}, {"2.cls", "00"}});
  put_tar(scratch / "n/b.tar", {{"1.jpg", kJpeg}, {"1.cls", "1"}, {"4.jpg", kJpeg}});
  expect_same_as_dataset(scratch / "n", 4);
  scratch.put("n/classes.txt", "none\none\ntwo\n");
  expect_same_as_dataset(scratch / "n", 4);
  put_tar(scratch / "n/c.tar", {{"1.jpg", kJpeg}, {"1.cls", "bird"}, {"7/2.jpg", kJpeg}});
  expect_same_as_dataset(scratch / "n", 6);
  scratch.put("list.txt", "n/c.tar\nt/beside/dog/9.jpg\tbird\nn/a.tar\n");
  expect_same_as_dataset(scratch / "list.txt", 5);
}

TEST(RecordList, TarsThatRepeatEachOthersKeys) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "t/a");
  put_tar(scratch / "t/a.tar", {{"b/1.jpg", kJpeg}, {"b/1.png", kPng}, {"2.jpg", kJpeg}});
  put_tar(scratch / "t/a/b.tar", {{"1.jpg", kJpeg}, {"1.png", kPng}, {"3.jpg", kJpeg}});
  scratch.put("t/z.jpg", kJpeg);
  RecordListWriter writer("");
  EXPECT_THROW(static_cast<void>(list_dataset(scratch / "t", writer)), RepeatedKeys);
  expect_same_as_dataset(scratch / "t", 7);
}

TEST(RecordList, CuratedFolders) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "c/shards");
  put_tar(scratch / "c/shards/0.tar", {{"a/1.jpg", kJpeg}, {"a/1.cls", "1"}});
  put_tar(scratch / "c/shards/1.tar", {{"a/2.jpg", kJpeg}, {"a/2.cls", "0"}, {"b/1.jpg", kJpeg}});
  scratch.put("c/classes.txt", "first\nsecond\n");
  scratch.put("c/manifest.json", R"({"shards": [{"path": "shards/1.tar"}, {"path": "shards/0.tar"}]})");
  expect_same_as_dataset(scratch / "c", 3);
}

TEST(RecordList, SetsWithNames) {
  const Scratch scratch;
  const char* share = ::getenv("DINO_SHARE");
  const std::string before = share == nullptr ? "" : share;
  ::setenv("DINO_SHARE", (scratch / "share").c_str(), 1);
  ::setenv("DINO_DATA", (scratch / "data").c_str(), 1);
  for (const char* kind : {"cat", "dog"})
    for (char animal = 'a'; animal < 'm'; ++animal)
      scratch.put(fmt::format("data/packages/zoo/img/{}/{}.png", kind, animal), "x");
  scratch.put("share/datasets/zoo.cfg", "[zoo]\nroot = zoo:img\nlabel = ^([^/]+)/\nval = 0.1\ntest = 0.25\n");
  expect_same_as_dataset("zoo", 24);
  expect_same_as_dataset("zoo/test", open_dataset("zoo/test").records.size());
  before.empty() ? ::unsetenv("DINO_SHARE") : ::setenv("DINO_SHARE", before.c_str(), 1);
  ::unsetenv("DINO_DATA");
}

TEST(RecordList, SeveralReferences) {
  const Scratch scratch;
  for (const char* name : {"a/x/1.jpg", "a/y/2.jpg", "b/z/1.jpg"}) scratch.put(name, "x");
  const RecordList list =
      list_images({scratch / "a", scratch / "b"}, scratch.folder(), "", Communicator::self());
  ASSERT_EQ(list.count(), 3);
  EXPECT_EQ(list.at(2).key, "z/1");
  EXPECT_EQ(list.at(2).label, 0);
  EXPECT_EQ(list.reference(), scratch / "a" + ", " + scratch.folder() + "/b");
  EXPECT_TRUE(list.classes().empty());
  // Its file has no name.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.folder()), {}), 2);
  expect_error<MissingInputError>(
      [&] { static_cast<void>(list_images({scratch / "none"}, "", "", Communicator::self())); }, "none");
}

/// A committed list of three records with all kinds of texts.
class ListFile : public ::testing::Test {
 protected:
  ListFile() {
    dataset_.reference = "somewhere";
    dataset_.classes = {"one", "two"};
    dataset_.faults = {"a fault", "another"};
    dataset_.records = {{"a/1", "t.tar", 512, 10, 1, "jpg", "g", "", true},
                        {"a/2", "t.tar", 1536, 20, -1, "png", "", "its name is too long", false},
                        {"b", "b.png", 0, -1, 0, "png", "g", "", false}};
    list_of(dataset_).commit_to(path_);
  }
  void change(int64_t offset, char by) const {
    std::vector<uint8_t> bytes = read_bytes(path_);
    bytes[static_cast<size_t>(offset)] ^= static_cast<uint8_t>(by);
    write(bytes);
  }
  void write(const std::vector<uint8_t>& bytes) const {
    scratch_.put("list", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  void expect_damaged(const std::string& why) const {
    expect_error<DataError>([&] { static_cast<void>(RecordList::open(path_)); }, "damaged list of images",
                            path_, why);
  }

  const Scratch scratch_;
  const std::string path_ = scratch_ / "list";
  Dataset dataset_;
};

TEST_F(ListFile, KeepsAllOfIt) {
  const RecordList list = RecordList::open(path_);
  ASSERT_EQ(list.count(), 3);
  for (int64_t i = 2; i >= 0; --i) expect_equal(list.at(i), dataset_.records[static_cast<size_t>(i)]);
  EXPECT_EQ(list.classes(), dataset_.classes);
  EXPECT_EQ(list.faults(), dataset_.faults);
  EXPECT_EQ(list.header(), list_of(dataset_).header());
  EXPECT_EQ(list.hash(), hash_of(dataset_.records));
  const RecordList nothing;
  EXPECT_EQ(nothing.count(), 0);
  EXPECT_TRUE(nothing.reference().empty() && nothing.faults().empty());
}

TEST_F(ListFile, DamageIsSeen) {
  const std::vector<uint8_t> whole = read_bytes(path_);
  for (size_t size = 0; size < whole.size(); ++size) {
    write({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)});
    expect_damaged(size < sizeof(RecordListHeader) ? "within its header" : "its header tells of");
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    write(whole);
    change(static_cast<int64_t>(at), 4);
    expect_damaged(at < 8                          ? "it is none"
                   : at < sizeof(RecordListHeader) ? "the checksum of its header differs"
                                                   : "its checksum differs");
  }
  // Another version, whose header is whole.
  RecordListHeader header = RecordList::open((write(whole), path_)).header();
  header.version = 3;
  header.header_crc = crc32c(std::as_bytes(std::span(&header, 1)).first(sizeof header - 4));
  std::vector<uint8_t> other = whole;
  std::memcpy(other.data(), &header, sizeof header);
  write(other);
  expect_damaged("version 3, this program reads version 2");
  std::filesystem::remove(path_);
  expect_error<MissingInputError>([&] { static_cast<void>(RecordList::open(path_)); }, path_);
}

TEST_F(ListFile, ADamagedOneIsMadeAnewAndTheSameOneStays) {
  const Communicator self = Communicator::self();
  const auto inode = [&] {
    struct stat status {};
    return ::stat(path_.c_str(), &status) == 0 ? status.st_ino : 0;
  };
  const auto before = inode();
  EXPECT_EQ(share_list(list_of(dataset_), path_, self).count(), 3);
  EXPECT_EQ(inode(), before);
  change(100, 1);
  EXPECT_EQ(share_list(list_of(dataset_), path_, self).at(1).key, "a/2");
  EXPECT_NO_THROW(static_cast<void>(RecordList::open(path_)));
  const auto anew = inode();
  dataset_.records[2].path = "elsewhere/b.png";  // the same images in another place
  EXPECT_EQ(share_list(list_of(dataset_), path_, self).at(2).path, "elsewhere/b.png");
  EXPECT_NE(inode(), anew);
}

TEST(RecordList, MemoryDoesNotGrowWithIt) {
  constexpr int64_t kRecords = 1'000'000;
  const Scratch scratch;
  {
    RecordListWriter writer(scratch.folder());
    Record record;
    record.extension = "jpg";
    record.size = 1000;
    for (int64_t i = 0; i < kRecords; ++i) {
      record.key = fmt::format("{:04}/{:09}", i / 10'000, i);
      record.path = fmt::format("/somewhere/{:04}.tar", i / 10'000);
      record.offset = i % 10'000 * 1536;
      writer.add(record);
    }
    EXPECT_FALSE(writer.has_repeated_keys(0));
    writer.add_reference("/somewhere", {}, {});
    writer.finish().commit_to(scratch / "list");
  }
  const int64_t before = current_rss_bytes();
  const RecordList list = RecordList::open(scratch / "list");
  ASSERT_EQ(list.count(), kRecords);
  int64_t most = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t at = i * 7'919 * 131 % kRecords;
    ASSERT_EQ(list.at(at).key, fmt::format("{:04}/{:09}", at / 10'000, at));
    most = std::max(most, current_rss_bytes());
  }
  EXPECT_LT(most - before, int64_t{6} << 20);
  EXPECT_GT(file_size(scratch / "list"), kRecords * 60);
}

}  // namespace
}  // namespace dino
