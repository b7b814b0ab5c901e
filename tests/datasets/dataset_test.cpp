// SPDX-License-Identifier: Apache-2.0
#include "datasets/dataset.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/retry.hpp"
#include "datasets/samples.hpp"
#include "storage/scratch.hpp"
#include "storage/seal.hpp"
#include "storage/tar.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::put_tar;
using testing::Scratch;

std::vector<std::string> keys(const Dataset& dataset) {
  std::vector<std::string> result;
  for (const Record& record : dataset.records) result.push_back(record.key);
  return result;
}

std::vector<int> labels(const Dataset& dataset) {
  std::vector<int> result;
  for (const Record& record : dataset.records) result.push_back(record.label);
  return result;
}

std::string content(const Record& record) {
  const auto bytes = read_record(record);
  return {bytes.begin(), bytes.end()};
}

TEST(Dataset, AFolderIsOrderedByPathAndLabelledByItsSubFolders) {
  const Scratch scratch;
  scratch.put("d/dog/b.PNG", "2");
  scratch.put("d/cat/deep/a.jpg", "1");
  scratch.put("d/dog/b.jpg", "3");
  scratch.put("d/top.jpeg", "4");
  scratch.put("d/README.txt", "no image");
  scratch.put("d/.hidden/x.jpg", "no");
  const Dataset dataset = open_dataset(scratch / "d/");
  EXPECT_EQ(keys(dataset), (std::vector<std::string>{"cat/deep/a", "dog/b", "dog/b.jpg", "top"}));
  EXPECT_EQ(labels(dataset), (std::vector<int>{0, 1, 1, -1}));
  EXPECT_EQ(dataset.classes, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(dataset.records[1].extension, "png");
  EXPECT_EQ(content(dataset.records[1]), "2");
  ASSERT_EQ(dataset.faults.size(), 2u);
  EXPECT_NE(
      dataset.faults[0].find("1 files are no images and were passed over (1 .txt), the first is README.txt"),
      std::string::npos)
      << dataset.faults[0];
  EXPECT_NE(dataset.faults[1].find("1 hidden"), std::string::npos);
  EXPECT_EQ(dataset.passed_over, 2);
}

TEST(Dataset, LinksAreFollowedAndCyclesEnd) {
  const Scratch scratch;
  scratch.put("d/a/x.jpg", "1");
  std::filesystem::create_directory_symlink(scratch / "d", scratch / "d/a/loop");
  std::filesystem::create_symlink("nowhere.jpg", scratch / "d/broken.jpg");
  std::filesystem::create_symlink("x.jpg", scratch / "d/a/y.jpg");
  const Dataset dataset = open_dataset(scratch / "d");
  EXPECT_EQ(keys(dataset), (std::vector<std::string>{"a/x", "a/y"}));
  ASSERT_EQ(dataset.faults.size(), 2u);
  EXPECT_NE(dataset.faults[0].find("a/loop: a link to a folder that is read already"), std::string::npos);
  EXPECT_NE(dataset.faults[1].find("broken.jpg"), std::string::npos);
}

TEST(Dataset, TarsGiveRecordsSidecarsAndLabels) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "d");
  put_tar(scratch / "d/001.tar",
          {{"a.cls", "3\n"}, {"a.jpg", "A"}, {"a.json", "{}"}, {"b.jpg", "B"}, {"c.json", "{}"}});
  put_tar(scratch / "d/000.tar", {{"z.png", "Z"}, {"z.cls", "1"}, {"z.1.png", "Z1"}, {"note.md", "x"}});
  const Dataset dataset = open_dataset(scratch / "d");
  EXPECT_EQ(keys(dataset), (std::vector<std::string>{"000/z", "000/z.1", "001/a", "001/b"}));
  EXPECT_EQ(labels(dataset), (std::vector<int>{1, -1, 3, -1}));
  EXPECT_EQ(dataset.classes, (std::vector<std::string>{"0", "1", "2", "3"}));
  EXPECT_EQ(content(dataset.records[2]), "A");
  ASSERT_EQ(dataset.sidecars.size(), 3u);
  EXPECT_EQ(dataset.sidecars[2].record, 2);
  EXPECT_EQ(dataset.sidecars[2].extension, "json");
  put_tar(scratch / "folders.tar", {{"./dog/1.jpg", "D"}, {"./cat/1.jpg", "C"}});
  const Dataset one = open_dataset(scratch / "folders.tar");
  EXPECT_EQ(keys(one), (std::vector<std::string>{"folders/dog/1", "folders/cat/1"}));
  EXPECT_EQ(labels(one), (std::vector<int>{1, 0}));
}

TEST(Dataset, NumbersInTarsAreNamedByClassesTxt) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "out/shards");
  put_tar(scratch / "out/shards/0.tar", {{"a.jpg", "A"}, {"a.cls", "1"}, {"b.jpg", "B"}, {"b.cls", "0"}});
  const std::vector<std::string> numbers{"0", "1"}, names{"cat", "dog", "yak"};
  EXPECT_EQ(open_dataset(scratch / "out/shards").classes, numbers);
  scratch.put("out/classes.txt", "cat\ndog\r\nyak\n");
  for (const char* reference : {"out/shards", "out/shards/0.tar", "out/shards/", "out"}) {
    const Dataset dataset = open_dataset(scratch / reference);
    EXPECT_EQ(dataset.classes, names) << reference;
    EXPECT_EQ(labels(dataset), (std::vector<int>{1, 0})) << reference;
    EXPECT_TRUE(dataset.faults.empty()) << reference << ": " << dataset.faults[0];
    EXPECT_EQ(dataset.passed_over, 0) << reference;
  }
  // Of tars elsewhere, only the one beside them counts.
  std::filesystem::rename(scratch / "out/shards", scratch / "out/part");
  EXPECT_EQ(open_dataset(scratch / "out/part").classes, numbers);
  scratch.put("out/part/classes.txt", "x\ny\n");
  EXPECT_EQ(open_dataset(scratch / "out/part/0.tar").classes, (std::vector<std::string>{"x", "y"}));
  // A list that is too short names nothing, and is told of.
  scratch.put("out/part/classes.txt", "x\n");
  const Dataset dataset = open_dataset(scratch / "out/part");
  EXPECT_EQ(dataset.classes, numbers);
  ASSERT_EQ(dataset.faults.size(), 1u);
  EXPECT_NE(dataset.faults[0].find("classes.txt names 1 classes, and there are numbers up to 1"),
            std::string::npos);
}

TEST(Dataset, ABrokenTarIsAFaultAndTheRestIsUsed) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "d");
  put_tar(scratch / "d/0.tar", {{"a.jpg", "A"}, {"b.jpg", std::string(2000, 'b')}});
  put_tar(scratch / "d/1.tar", {{"c.jpg", "C"}});
  const std::string whole = read_text(scratch / "d/0.tar");
  scratch.put("d/0.tar", whole.substr(0, 1600));
  scratch.put("d/2.tar", "junk");
  const Dataset dataset = open_dataset(scratch / "d");
  EXPECT_EQ(keys(dataset), (std::vector<std::string>{"0/a", "1/c"}));
  ASSERT_EQ(dataset.faults.size(), 2u);
  EXPECT_NE(dataset.faults[0].find("0.tar: offset 1024: truncated member b.jpg"), std::string::npos)
      << dataset.faults[0];
  std::filesystem::remove(scratch / "d/0.tar");
  std::filesystem::remove(scratch / "d/1.tar");
  expect_error<DataError>([&] { (void)open_dataset(scratch / "d"); }, "no image", "2.tar");
}

TEST(Dataset, AListIsRelativeToItsFolder) {
  const Scratch scratch;
  const std::string absolute = scratch.put("x/b.png", "B");
  scratch.put("x/a.jpg", "A");
  scratch.put("list.txt",
              "# comment\r\nx/a.jpg\tcat\r\n\n" + absolute + "\tdog\nx/none.jpg\nx/a.jpg\nx/a.doc\n");
  const Dataset dataset = open_dataset(scratch / "list.txt");
  ASSERT_EQ(dataset.records.size(), 2u);
  EXPECT_EQ(dataset.records[0].key, "x/a");
  EXPECT_EQ(content(dataset.records[1]), "B");
  EXPECT_EQ(labels(dataset), (std::vector<int>{0, 1}));
  ASSERT_EQ(dataset.faults.size(), 3u);
  EXPECT_NE(dataset.faults[0].find("line 5"), std::string::npos) << dataset.faults[0];
  EXPECT_NE(dataset.faults[1].find("listed twice"), std::string::npos);
}

TEST(Dataset, ACuratedFolderGivesTheShardsOfItsManifest) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "c/shards");
  put_tar(scratch / "c/shards/000000.tar", {{"k.jpg", "K"}, {"k.json", "{}"}});
  put_tar(scratch / "c/shards/stray.tar", {{"s.jpg", "S"}});
  const auto size = std::to_string(file_size(scratch / "c/shards/000000.tar"));
  const std::string whole = R"({"path":"shards/000000.tar","bytes":)" + size + R"(,"records":1})";
  scratch.put("c/manifest.json", R"({"shards":[)" + whole + "]}");
  EXPECT_EQ(keys(open_dataset(scratch / "c")), std::vector<std::string>{"000000/k"});
  // A part must not look like the whole.
  scratch.put("c/manifest.json", R"({"shards":[)" + whole + R"(,{"path":"shards/000001.tar","bytes":5}]})");
  expect_error<DataError>([&] { (void)open_dataset(scratch / "c"); }, "000001.tar", "not there");
  scratch.put("c/manifest.json", "{\"shards\": [");
  expect_error<DataError>([&] { (void)open_dataset(scratch / "c"); }, "manifest.json", "not JSON");
  scratch.put("c/manifest.json", "{\"shards\": [1]}");
  expect_error<DataError>([&] { (void)open_dataset(scratch / "c"); }, "manifest.json", "no path");
  scratch.put("c/manifest.json", "{\"else\": 1}");  // a folder that happens to hold a file of that name
  EXPECT_EQ(open_dataset(scratch / "c").records.size(), 2u);
}

TEST(Dataset, ADamagedShardOrManifestIsNamed) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "c/shards");
  const std::string shard = scratch / "c/shards/000000.tar";
  put_tar(shard, {{"k.jpg", "a picture"}});
  const std::string entry = R"("path": "shards/000000.tar", "bytes": )" + std::to_string(file_size(shard)) +
                            R"(, "crc32c": ")" + hex32(crc32c_file(shard)) + "\"";
  const std::string manifest = sealed_json("{\n \"shards\": [{" + entry + "}]\n}");
  scratch.put("c/manifest.json", manifest);
  EXPECT_EQ(open_dataset(scratch / "c").records.size(), 1u);
  const auto bytes = read_bytes(shard);
  std::string text(bytes.begin(), bytes.end());
  ++text[600];
  scratch.put("c/shards/000000.tar", text);
  expect_error<DataError>([&] { (void)open_dataset(scratch / "c"); }, "000000.tar", "checksum");
  scratch.put("c/shards/000000.tar", text.substr(0, 700));
  expect_error<DataError>([&] { (void)open_dataset(scratch / "c"); }, "000000.tar", "700 bytes");
  --text[600];
  scratch.put("c/shards/000000.tar", text);
  std::string other = manifest;
  other.replace(other.find("000000"), 6, "000001");
  scratch.put("c/manifest.json", other);
  expect_error<DataError>([&] { (void)open_dataset(scratch / "c"); }, "manifest.json", "checksum");
}

TEST(Dataset, ReferencesThatAreNothingSayWhatTheyCouldHaveBeen) {
  const Scratch scratch;
  expect_error<MissingInputError>([&] { (void)open_dataset(scratch / "none"); }, scratch / "none",
                                  "no such file", "known names");
  std::filesystem::create_directories(scratch / "empty");
  expect_error<DataError>([&] { (void)open_dataset(scratch / "empty"); }, "no image", scratch / "empty");
  scratch.put("x.zip", "x");
  expect_error<DataError>([&] { (void)open_dataset(scratch / "x.zip"); }, "x.zip", "neither");
  scratch.put("empty.txt", "\n");
  expect_error<DataError>([&] { (void)open_dataset(scratch / "empty.txt"); }, "no image");
  scratch.put("gone/a.jpg", "A");
  const Dataset dataset = open_dataset(scratch / "gone");
  std::filesystem::remove(scratch / "gone/a.jpg");
  set_retry_seconds(0);
  expect_error<IoError>([&] { (void)read_record(dataset.records[0]); }, "gone/a.jpg", "when it was listed");
  set_retry_seconds(30);
}

}  // namespace
}  // namespace dino
