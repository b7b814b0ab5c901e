// SPDX-License-Identifier: Apache-2.0
// Folders and lists as people have them.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>

#include "datasets/dataset.hpp"
#include "datasets/samples.hpp"
#include "storage/scratch.hpp"
#include "storage/tar.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::kJpeg;
using testing::kPng;
using testing::Scratch;
using Strings = std::vector<std::string>;

Strings labels_of(const Dataset& dataset) {
  Strings out;
  for (const Record& r : dataset.records)
    out.push_back(r.key + (r.label < 0 ? "" : "=" + dataset.classes[static_cast<size_t>(r.label)]));
  return out;
}

bool has_fault(const Dataset& dataset, const std::string& text) {
  for (const std::string& fault : dataset.faults)
    if (fault.find(text) != std::string::npos) return true;
  return false;
}

TEST(Folders, NumbersAreNames) {
  const Scratch scratch;
  for (const char* name : {"d/7/a.png", "d/007/a.png", "d/2019/a.png", "d/10/a.png", "d/2/a.png"})
    scratch.put(name, kPng);
  const Dataset dataset = open_dataset(scratch / "d");
  EXPECT_EQ(dataset.classes, (Strings{"007", "10", "2", "2019", "7"}));
  EXPECT_EQ(labels_of(dataset), (Strings{"007/a=007", "10/a=10", "2/a=2", "2019/a=2019", "7/a=7"}));
}

TEST(Folders, PartsOfADataSetAreNoClasses) {
  const Scratch scratch;
  for (const char* name :
       {"d/train/cat/1.png", "d/train/dog/2.png", "d/val/cat/3.png", "d/val/dog/deep/4.png"})
    scratch.put(name, kPng);
  const Dataset dataset = open_dataset(scratch / "d");
  EXPECT_EQ(labels_of(dataset),
            (Strings{"train/cat/1=cat", "train/dog/2=dog", "val/cat/3=cat", "val/dog/deep/4=dog"}));
  EXPECT_TRUE(has_fault(dataset, "train/, val/ are taken as parts")) << dataset.faults[0];
  EXPECT_EQ(open_dataset(scratch / "d/train").classes, (Strings{"cat", "dog"}));
  EXPECT_TRUE(open_dataset(scratch / "d/train").faults.empty());
  // Without folders below there is no label; other spellings; in the keys of a tar; a class that is a train.
  for (const char* name : {"e/Training/1.png", "e/validation/2.png", "f/train2017/3.png"})
    scratch.put(name, kPng);
  EXPECT_EQ(labels_of(open_dataset(scratch / "e")), (Strings{"Training/1", "validation/2"}));
  EXPECT_TRUE(has_fault(open_dataset(scratch / "f"), "train2017/ is taken as parts"));
  {
    TarWriter tar(scratch / "t.tar");
    const std::vector<uint8_t> bytes(kPng.begin(), kPng.end());
    for (const char* name : {"train/cat/1.png", "test/dog/1.png"}) tar.add(name, bytes);
    tar.close();
  }
  EXPECT_EQ(labels_of(open_dataset(scratch / "t.tar")), (Strings{"t/train/cat/1=cat", "t/test/dog/1=dog"}));
  for (const char* name : {"g/train/1.png", "g/car/1.png"}) scratch.put(name, kPng);
  EXPECT_EQ(open_dataset(scratch / "g").classes, (Strings{"car", "train"}));
  EXPECT_TRUE(open_dataset(scratch / "g").faults.empty());
  scratch.put("g/val/1.png", kPng);
  EXPECT_TRUE(has_fault(open_dataset(scratch / "g"), "taken as classes beside 1 others"));
}

TEST(Folders, FilesAreToldByContentAndTheRestIsCounted) {
  const Scratch scratch;
  scratch.put("d/photo", kPng);
  scratch.put("d/0.05", kPng);
  scratch.put("d/0.5", kPng);
  scratch.put("d/scan.dat", kJpeg);
  scratch.put("d/real.jpg", kPng);
  scratch.put("d/real.json", "{}");
  scratch.put("d/notes.txt", "P1 is a text");
  scratch.put("d/empty.dat", "");
  scratch.put("d/empty.jpg", "");
  scratch.put("d/Thumbs.db", "x");
  scratch.put("d/._photo.jpg", "x");
  scratch.put("d/.git/x.png", kPng);
  ASSERT_EQ(::mkfifo((scratch / "d/pipe.png").c_str(), 0600), 0);
  const Dataset dataset = open_dataset(scratch / "d");
  EXPECT_EQ(labels_of(dataset), (Strings{"0.05", "0.5", "empty", "photo", "real", "scan"}));
  EXPECT_EQ(dataset.records[5].extension, "jpg");
  EXPECT_EQ(dataset.passed_over, 7);
  EXPECT_TRUE(has_fault(dataset, "3 files are no images and were passed over (1 .dat, 1 .json, 1 .txt)"))
      << dataset.faults[0];
  EXPECT_TRUE(has_fault(dataset, "4 hidden or system files"));
}

TEST(Folders, LinksInCirclesAndAcrossEndAndNothingIsReadTwice) {
  const Scratch scratch;
  for (int i = 0; i < 12; ++i) scratch.put("d/" + std::to_string(i) + "/x.png", kPng);
  for (int i = 0; i < 12; ++i)  // each leads to all others: 12! paths
    for (int j = 0; j < 12; ++j)
      std::filesystem::create_directory_symlink(
          scratch / ("d/" + std::to_string(j)),
          scratch / ("d/" + std::to_string(i) + "/to" + std::to_string(j)));
  std::filesystem::create_symlink("self", scratch / "d/self");
  scratch.put("elsewhere/y.png", kPng);
  std::filesystem::create_directory_symlink(scratch / "elsewhere", scratch / "d/a");
  std::filesystem::create_directory_symlink(scratch / "elsewhere", scratch / "d/b");
  const Dataset dataset = open_dataset(scratch / "d");
  EXPECT_EQ(dataset.records.size(), 13U);
  EXPECT_EQ(dataset.records[12].key, "a/y");
  EXPECT_TRUE(has_fault(dataset, "d/b: a link to a folder that is read already"));
  EXPECT_TRUE(has_fault(dataset, "d/self: cannot follow the link"));
}

TEST(Lists, MarksEndsAndWhatIsNoImage) {
  const Scratch scratch;
  scratch.put("x/a.png", kPng);
  scratch.put("x/b", kJpeg);
  scratch.put("x/space .png", kPng);
  scratch.put("x/end.png ", kPng);
  scratch.put("x/c.txt", "text");
  scratch.put(
      "l/list.txt",
      "\xef\xbb\xbf../x/a.png\tcat\r\n../x/b\t dog \r\n../x/space .png  \r\n../x/end.png \n../x/./a.png\n"
      "../x\n../x/none.png\n../x/c.txt\n");
  const Dataset dataset = open_dataset(scratch / "l/list.txt");
  EXPECT_EQ(labels_of(dataset), (Strings{"../x/a=cat", "../x/b=dog", "../x/space ", "../x/end.png "}));
  for (const char* why : {"line 5: ../x/./a.png: listed twice", "line 6: ../x: a folder",
                          "line 7: ../x/none.png: no such file", "line 8: ../x/c.txt: not an image"})
    EXPECT_TRUE(has_fault(dataset, why)) << why;
  EXPECT_EQ(dataset.passed_over, 3);
  scratch.put("wide.txt", std::string("\xff\xfex\0", 4));
  expect_error<DataError>([&] { (void)open_dataset(scratch / "wide.txt"); }, "wide.txt", "UTF-16");
}

}  // namespace
}  // namespace dino
