// SPDX-License-Identifier: Apache-2.0
// Data sets by name, on a small package tree made here.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "base/version.hpp"
#include "datasets/dataset.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/dense_dataset.hpp"
#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::Scratch;

class NamedDataset : public ::testing::Test {
 protected:
  NamedDataset() {
    ::setenv("DINO_SHARE", (scratch_ / "share").c_str(), 1);
    ::setenv("DINO_DATA", (scratch_ / "data").c_str(), 1);
  }
  ~NamedDataset() override {
    old_share_.empty() ? ::unsetenv("DINO_SHARE") : ::setenv("DINO_SHARE", old_share_.c_str(), 1);
    ::unsetenv("DINO_DATA");
  }
  void define(const std::string& name, const std::string& text) {
    scratch_.put("share/datasets/" + name + ".cfg", text);
  }
  std::string package(const std::string& path, const std::string& content) {
    return scratch_.put("data/packages/" + path, content);
  }
  /// Two kinds of 12 animals with five frames each.
  void make_animals() {
    for (const std::string kind : {"cat", "dog"})
      for (char animal = 'a'; animal < 'm'; ++animal)
        for (int frame = 0; frame < 5; ++frame)
          package("zoo/img/" + kind + "/" + animal + "-" + std::to_string(frame) + ".png", "x");
    package("zoo/img/rare/a-1.png", "x");
    package("zoo/img/README.txt", "x");
    package("zoo/img/cat/skip-1.png", "x");
    define("zoo",
           "# comment\n[zoo]\nroot = zoo:img\nlabel = ^([^/]+)/\ngroup = ^(.*/[a-z]+)-\nexclude = /skip\n"
           "rename = dog -> hound\nmin-class = 5\nval = 0.1\ntest = 0.25\n");
  }

  const Scratch scratch_;
  const std::string old_share_ = ::getenv("DINO_SHARE") == nullptr ? "" : ::getenv("DINO_SHARE");
};

TEST_F(NamedDataset, SplitsWholeGroupsOfEveryClass) {
  make_animals();
  std::map<std::string, std::set<std::string>> parts_of_group;
  std::map<std::string, std::map<int, int>> count;
  for (const std::string part : {"train", "val", "test"})
    for (const Record& record : open_dataset("zoo/" + part).records) {
      parts_of_group[record.group].insert(part);
      ++count[part][record.label];
    }
  EXPECT_EQ(parts_of_group.size(), 24u);
  for (const auto& [group, parts] : parts_of_group) EXPECT_EQ(parts.size(), 1u) << group;
  for (const int label : {0, 1}) {
    EXPECT_EQ(count["test"][label], 15);
    EXPECT_EQ(count["val"][label], 5);
    EXPECT_EQ(count["train"][label], 40);
  }
  const Dataset all = open_dataset("zoo");
  EXPECT_EQ(all.records.size(), 120u);  // without the rare class, the excluded file and the text
  EXPECT_EQ(all.classes, (std::vector<std::string>{"cat", "hound"}));
  EXPECT_EQ(all.records[0].key, "cat/a-0");
  EXPECT_EQ(open_dataset("zoo/trainval").records.size(), 90u);
  EXPECT_EQ(open_dataset("zoo/train").records[7].key, open_dataset("zoo/train").records[7].key);
}

TEST_F(NamedDataset, AGroupNeverCrossesEvenBetweenClassesAndRoots) {
  for (int i = 0; i < 60; ++i) {
    const std::string name = "icon" + std::to_string(i) + ".png";
    package("theme1/apps/" + name, "x");
    package("theme2/" + std::string(i % 2 == 0 ? "apps/" : "places/") + name, "x");
  }
  define("icons",
         "root = theme1:\nroot = theme2:\nlabel = ^([^/]+)/\ngroup = ([^/]+)\\.png$\nval = .2\ntest = .2\n");
  std::map<std::string, std::set<std::string>> parts_of_group;
  for (const std::string part : {"train", "val", "test"})
    for (const Record& record : open_dataset("icons/" + part).records) {
      parts_of_group[record.group].insert(part);
      EXPECT_TRUE(record.key.starts_with("theme1/") || record.key.starts_with("theme2/"));
    }
  EXPECT_EQ(parts_of_group.size(), 60u);
  for (const auto& [group, parts] : parts_of_group) EXPECT_EQ(parts.size(), 1u) << group;
}

TEST_F(NamedDataset, LinksAreLeftOutUnlessAskedFor) {
  package("p/a.png", "x");
  std::filesystem::create_symlink("a.png", scratch_ / "data/packages/p/b.png");
  std::filesystem::create_symlink("/no/such/file.png", scratch_ / "data/packages/p/c.png");
  define("plain", "root = p:\n");
  define("linked", "root = p:\nlinks = true\n");
  EXPECT_EQ(open_dataset("plain").records.size(), 1u);
  EXPECT_TRUE(open_dataset("plain").faults.empty());
  EXPECT_EQ(open_dataset("linked").records.size(), 2u);
  EXPECT_EQ(open_dataset("linked").faults.size(), 1u);
  EXPECT_EQ(open_dataset("plain").records[0].label, -1);
}

class IdxDataset : public NamedDataset {
 protected:
  static std::string header(const std::vector<int>& words) {
    std::string text;
    for (const int word : words)
      for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>(word >> shift & 0xff);
    return text;
  }
  void put_gz(const std::string& name, const std::string& content) {
    const std::string path = package("idx/" + name, content);
    ASSERT_EQ(std::system(("gzip -nf " + path).c_str()), 0);
  }
  void put_part(const std::string& stem, int count) {
    std::string images = header({0x803, count, 2, 3}), labels = header({0x801, count});
    for (int i = 0; i < count; ++i) {
      images += std::string(6, static_cast<char>(i));
      labels += static_cast<char>(i % 2);
    }
    put_gz(stem + "-images-idx3-ubyte", images);
    put_gz(stem + "-labels-idx1-ubyte", labels);
  }
  void make() {
    put_part("train", 20);
    put_part("t10k", 4);
    define("digits", "format = idx\nroot = idx:\nclasses = zero one\nval = 0.1\n");
  }
};

TEST_F(IdxDataset, BecomesRecordsThatDecodeAsPgm) {
  make();
  const Dataset test = open_dataset("digits/test");
  ASSERT_EQ(test.records.size(), 4u);
  EXPECT_EQ(test.classes, (std::vector<std::string>{"one", "zero"}));
  const auto bytes = read_record(test.records[3]);
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), "P5\n3 2\n255\n" + std::string(6, '\3'));
  EXPECT_EQ(test.records[3].extension, "pgm");
  EXPECT_EQ(test.classes[static_cast<size_t>(test.records[3].label)], "one");
  EXPECT_EQ(open_dataset("digits/train").records.size(), 18u);
  EXPECT_EQ(open_dataset("digits/val").records.size(), 2u);
  EXPECT_EQ(open_dataset("digits/trainval").records.size(), 20u);
  std::filesystem::remove_all(scratch_ / "data/packages/idx/train-images-idx3-ubyte.gz");
  EXPECT_EQ(open_dataset("digits").records.size(), 24u);  // prepared once
}

TEST_F(IdxDataset, BrokenFilesAreNamed) {
  make();
  const std::string images = "train-images-idx3-ubyte", labels = "train-labels-idx1-ubyte";
  const auto fails_with = [&](const std::string& file, const std::string& why) {
    expect_error<DataError>([] { (void)open_dataset("digits"); }, file, why);
    EXPECT_FALSE(path_exists(scratch_ / "data/prepared/digits/train.tar"));
    put_part("train", 20);
  };
  package("idx/" + images + ".gz", "no gzip at all");
  expect_error<DataError>([] { (void)open_dataset("digits"); }, images);
  put_part("train", 20);
  put_gz(images, header({0x802, 20, 2, 3}) + std::string(120, 'x'));
  fails_with(images, "not 8-bit images");
  put_gz(images, header({0x803, 20, 2, 3}) + std::string(119, 'x'));
  fails_with(images, "size does not fit");
  put_gz(images, header({0x803, -1, -1, -1}));
  fails_with(images, "size does not fit");
  put_gz(labels, header({0x801, 20}) + std::string(20, '\7'));
  fails_with(labels, "class 7 of image 0");
  put_gz(labels, header({0x801, 20}) + std::string(19, '\0'));
  fails_with(images, "size does not fit");
}

class ModelDataset : public NamedDataset {
 protected:
  /// Three categories of four cubes each, zipped as the furniture catalogues are. False when there is no zip.
  bool make(const std::string& break_key = "") {
    std::string catalogue = "# comment\r\nname=test\r\n";
    const std::string tree = scratch_ / "tree";
    for (int i = 1; i <= 12; ++i) {
      const std::string n = "#" + std::to_string(i) + "=", name = "cube" + std::to_string(i);
      scratch_.put(
          "tree/m/" + name + ".obj",
          "mtllib cube.mtl\nusemtl c\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\n"
          "v 0 1 1\nf 1 2 3 4\nf 5 6 7 8\nf 1 2 6 5\nf 3 4 8 7\nf 2 3 7 6\nf 1 4 8 5\n");
      catalogue += "id" + n + "Test#" + name + "\ncategory" + n + "Room " + std::to_string(i % 3) +
                   "\nmodel" + n + "/m/" + name + ".obj\nwidth" + n + "50\ndepth" + n + "50\n" +
                   (break_key == "height" ? "" : "height" + n + "100\n");
    }
    scratch_.put("tree/m/cube.mtl", "newmtl c\nKd 1 0 0\n");
    if (break_key != "catalogue") scratch_.put("tree/PluginFurnitureCatalog.properties", catalogue);
    if (break_key == "model") std::filesystem::remove(tree + "/m/cube3.obj");
    package("shop/img/README", "");
    define("shop", "format = models\nroot = shop:img\nviews = 2\nsize = 32\ntest = 0.25\n");
    return std::system(("cd " + tree + " && zip -qr " + (scratch_ / "data/packages/shop/img/a.sh3f") + " .")
                           .c_str()) == 0;
  }
};

TEST_F(ModelDataset, RendersLabelledViewsWithDepthAndKeepsAModelInOnePart) {
  if (!make()) GTEST_SKIP() << "no zip";
  const Dataset all = open_dataset("shop");
  ASSERT_EQ(all.records.size(), 24u);
  EXPECT_EQ(all.classes, (std::vector<std::string>{"room_0", "room_1", "room_2"}));
  const auto bytes = read_record(all.records[0]);
  EXPECT_EQ(std::string(bytes.begin(), bytes.begin() + 13), "P6\n32 32\n255\n");
  EXPECT_EQ(bytes.size(), 13u + 32 * 32 * 3);
  EXPECT_EQ(all.records[0].extension, "ppm");
  const Dataset train = open_dataset("shop/train"), test = open_dataset("shop/test");
  EXPECT_EQ(train.records.size(), 18u);
  ASSERT_EQ(test.records.size(), 6u);
  for (const Record& a : train.records)
    for (const Record& b : test.records) EXPECT_NE(a.group, b.group);
  ASSERT_EQ(test.sidecars.size(), 12u);
  for (size_t i = 0; i < 6; ++i) {
    const Sidecar &depth = test.sidecars[2 * i], &parts = test.sidecars[2 * i + 1];
    EXPECT_EQ(depth.extension, "depth");
    EXPECT_EQ(parts.extension, "parts");
    const auto mask = read_bytes(parts.path, parts.offset, parts.size);
    ASSERT_EQ(mask.size(), 13u + 32 * 32);
    EXPECT_NE(mask[13 + 16 * 32 + 16], 0);
    EXPECT_EQ(mask[13], 0);
    EXPECT_EQ(depth.record, static_cast<int64_t>(i));
    const auto map = read_bytes(depth.path, depth.offset, depth.size);
    ASSERT_EQ(map.size(), 15u + 32 * 32 * 2);
    EXPECT_EQ(std::string(map.begin(), map.begin() + 15), "P5\n32 32\n65535\n");
    const size_t centre = 15 + 2 * (16 * 32 + 16);
    const int millimetres = map[centre] << 8 | map[centre + 1];
    // Radius sqrt(250^2 + 500^2 + 250^2) = 612, camera at 2.6 radii, the box within one radius of its centre.
    EXPECT_GT(millimetres, 979);
    EXPECT_LT(millimetres, 1592);
    EXPECT_EQ(map[15] << 8 | map[16], 0);
  }
}

TEST_F(ModelDataset, RoomsHaveDepthAndAClassForEveryPixel) {
  if (!make()) GTEST_SKIP() << "no zip";
  define("rooms", "format = rooms\nroot = shop:img\nviews = 10\nsize = 48\nval = 0.1\ntest = 0.3\n");
  const DenseDataset train = open_dense_dataset("rooms/train", DenseTask::segmentation);
  EXPECT_EQ(train.pairs.size(), 6u);
  EXPECT_EQ(open_dense_dataset("rooms/test", DenseTask::segmentation).pairs.size(), 3u);
  EXPECT_EQ(train.classes, (std::vector<std::string>{"floor", "wall", "room_0", "room_1", "room_2"}));
  const DenseDataset depth = open_dense_dataset("rooms/train", DenseTask::depth);
  ASSERT_EQ(depth.pairs.size(), 6u);
  std::set<int16_t> seen;
  for (int64_t i = 0; i < 6; ++i) {
    const DenseSample labels = read_dense_sample(train, i), metres = read_dense_sample(depth, i);
    ASSERT_EQ(labels.fault + metres.fault, "");
    EXPECT_EQ(labels.image.width, 48);
    EXPECT_EQ(labels.image.pixels, metres.image.pixels);
    for (size_t p = 0; p < labels.labels.labels.size(); ++p) {
      const int16_t label = labels.labels.labels[p];
      const float z = metres.depth.metres[p];
      seen.insert(label);
      // A surface and its depth are known together; a room is 3.5 to 6 m wide, the camera before it.
      EXPECT_EQ(label == kIgnoredLabel, z == 0) << i << " " << p;
      if (label != kIgnoredLabel) {
        EXPECT_TRUE(z > 0.5F && z < 12) << z;
      }
    }
  }
  EXPECT_TRUE(seen.contains(0) && seen.contains(1));
  EXPECT_GE(seen.size(), 4u);  // and some furniture
  EXPECT_EQ(open_dataset("rooms").records.size(), 10u);
  // The same bytes again.
  const auto before = read_bytes(scratch_ / "data/prepared/rooms/val-1x48.tar");
  std::filesystem::remove_all(scratch_ / "data/prepared");
  (void)open_dataset("rooms");
  EXPECT_EQ(read_bytes(scratch_ / "data/prepared/rooms/val-1x48.tar"), before);
}

/// A NIfTI-1 file of u8 or i16 voxels.
std::string nifti(int64_t width, int64_t height, int64_t depth, int16_t type, const std::string& voxels,
                  float slope = 0) {
  std::string file(352, '\0');
  const auto put = [&](size_t at, auto value) { std::memcpy(file.data() + at, &value, sizeof(value)); };
  put(0, int32_t{348});
  put(40, int16_t{3});
  put(42, static_cast<int16_t>(width));
  put(44, static_cast<int16_t>(height));
  put(46, static_cast<int16_t>(depth));
  put(70, type);
  put(108, 352.0F);
  put(112, slope);
  file.replace(344, 4, std::string("n+1\0", 4));
  return file + voxels;
}

TEST_F(NamedDataset, SlicesOfAVolumeHaveRegions) {
  std::string grey, regions;
  for (int z = 0; z < 50; ++z)
    for (int p = 0; p < 6; ++p) {
      grey += static_cast<char>(z + p);
      regions += static_cast<char>(p == 0 ? 3 : p == 1 ? 9 : 0);
      regions += '\0';
    }
  package("atlas/t/a.nii", nifti(3, 2, 50, 2, grey));
  package("atlas/t/r.nii", nifti(3, 2, 50, 4, regions));
  package("atlas/t/names.txt", "3 left 2001\n5 right 2002\n");
  const std::string definition =
      "format = slices\nroot = atlas:t\nvolume = a.nii\nregions = r.nii\nregion-names = names.txt\n";
  define("brain", definition);
  const DenseDataset train = open_dense_dataset("brain/train", DenseTask::segmentation);
  EXPECT_EQ(train.classes, (std::vector<std::string>{"background", "left", "right"}));
  EXPECT_EQ(train.pairs.size(), 18u);  // three blocks of six
  EXPECT_EQ(open_dense_dataset("brain/test", DenseTask::segmentation).pairs.size(), 6u);
  const DenseSample sample = read_dense_sample(train, 0);  // slice 2; its rows from the top
  EXPECT_EQ(sample.labels.labels, (std::vector<int16_t>{0, 0, 0, 1, kIgnoredLabel, 0}));
  EXPECT_EQ(sample.image.at(0, 1)[0], std::lround(255.0 * 2 / 54));
  define("half", "format = slices\nroot = atlas:t\nvolume = a.nii\n");
  expect_error<DataError>([] { (void)open_dataset("half"); }, "half.cfg", "slices need");
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {"short", "ends within its header"},
           {std::string(400, '\0'), "no little-endian NIfTI-1 header"},
           {nifti(3, 2, 50, 4, regions.substr(1)), "ends before its last voxel"},
           {nifti(3, 2, 50, 64, regions), "data type 64"},
           {nifti(0, 2, 50, 4, regions), "3 dimensions of 0 x 2 x 50"},
           {nifti(3, 50, 2, 4, regions), "its grid is not that of"}}) {
    std::filesystem::remove_all(scratch_ / "data/prepared");
    package("atlas/t/r.nii", text);
    expect_error<DataError>([] { (void)open_dataset("brain"); }, "r.nii", why);
  }
}

TEST_F(ModelDataset, BrokenCataloguesAreNamed) {
  for (const auto& [what, why] :
       std::vector<std::pair<std::string, std::string>>{{"height", "has no height"},
                                                        {"catalogue", "no PluginFurnitureCatalog"},
                                                        {"model", "no file m/cube3.obj"}}) {
    std::filesystem::remove_all(scratch_ / "tree");
    std::filesystem::remove_all(scratch_ / "data");
    if (!make(what)) GTEST_SKIP() << "no zip";
    expect_error<DataError>([] { (void)open_dataset("shop"); }, "a.sh3f", why);
  }
  package("shop/img/a.sh3f", "not a zip");
  expect_error<DataError>([] { (void)open_dataset("shop"); }, "a.sh3f");
  EXPECT_FALSE(path_exists(scratch_ / "data/prepared/shop/2x32.tar"));
}

TEST_F(NamedDataset, SaysWhatIsMissingAndWhatToDo) {
  make_animals();
  define("far", "root = nowhere:img\n");
  define("moved", "root = zoo:other\n");
  expect_error<MissingInputError>([] { (void)open_dataset("far"); }, "far", "package nowhere",
                                  "fetch.sh far");
  expect_error<DataError>([] { (void)open_dataset("moved"); }, "moved", "no folder", "fetch.sh moved");
  expect_error<MissingInputError>([] { (void)open_dataset("zoo/training"); }, "zoo/training", "'training'",
                                  "trainval");
  expect_error<MissingInputError>([] { (void)open_dataset("zebra"); }, "zebra", "far, moved, zoo");
  define("plain", "root = zoo:img\n");
  expect_error<MissingInputError>([] { (void)open_dataset("plain/train"); }, "no labels");
}

TEST_F(NamedDataset, BrokenDefinitionsNameTheLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"root = a:b\ncolour = red\n", "colour (FILE:2): there is no such setting"},
      {"root = a:b\nlabel = ([\n", "label (FILE:2): bad regular expression"},
      {"root = nocolon\n", "root (FILE:1): root is PACKAGE:PATH"},
      {"root = a:b\nval = lots\n", "val (FILE:2): 'lots' is not a number"},
      {"root = a:b\nval = -1\n", "val (FILE:2): -1 is outside 0 to 1"},
      {"root = a:b\nval = .5\ntest = .5\n", "nothing to train on"},
      {"format = csv\n", "format (FILE:1): 'csv' is not one of images, idx, models"},
      {"hello\n", "FILE:1: 'hello' is not a setting"},
      {"title = x\n", "root (FILE): is missing"},
      {"rename = a b\n", "rename (FILE:1): rename is OLD -> NEW"},
      {"root = a:b\ninclude = x\ninclude = (\n", "include (FILE:3): bad regular expression"},
      {"root = a:b\ntest = .1\ntest = .2\n", "test (FILE:3): stands before in FILE:2"},
  };
  const std::string file = share_dir() + "/datasets/bad.cfg";
  for (auto [text, why] : cases) {
    for (size_t at = why.find("FILE"); at != std::string::npos; at = why.find("FILE"))
      why.replace(at, 4, file);
    define("bad", text);
    expect_error<DataError>([] { (void)open_dataset("bad"); }, "bad.cfg", why);
  }
}

TEST(ShippedDatasets, AllDefinitionsCanBeRead) {
  const Scratch scratch;
  ::setenv("DINO_DATA", scratch.folder().c_str(), 1);
  const auto names = dataset_names();
  EXPECT_GE(names.size(), 8u);
  const std::string packages = read_text(share_dir() + "/datasets/packages.txt");
  for (const std::string& name : names) {
    // Nothing is fetched, so a definition that reads well ends at its first package.
    expect_error<MissingInputError>([&] { (void)open_dataset(name); }, name, "not fetched");
    const std::string text = read_text(share_dir() + "/datasets/" + name + ".cfg");
    for (size_t at = text.find("\nroot = "); at != std::string::npos; at = text.find("\nroot = ", at + 1)) {
      const std::string package = text.substr(at + 8, text.find(':', at) - at - 8);
      EXPECT_NE(packages.find("\n" + package + " "), std::string::npos) << package;
    }
  }
  ::unsetenv("DINO_DATA");
}

}  // namespace
}  // namespace dino
