// SPDX-License-Identifier: Apache-2.0
// Pairs of images and maps: the shipped definitions on miniatures of their layouts, and what is broken.
#include "datasets/dense_dataset.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>

#include "base/version.hpp"
#include "datasets/dense_definition.hpp"
#include "imaging/sample_planes.hpp"
#include "storage/hdf5.hpp"
#include "storage/scratch.hpp"
#include "storage/tar.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::Scratch;

std::string text_of(const std::vector<uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

/// Pixel (x, y) has the colour (x, y, 9).
Image coordinates(int64_t width, int64_t height) {
  Image image{width, height, 3, {}};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (const int64_t v : {x, y, int64_t{9}}) image.pixels.push_back(static_cast<uint8_t>(v));
  return image;
}

std::string picture(int64_t width, int64_t height) {
  return text_of(encode_png(coordinates(width, height)));
}

/// All pixels the same, but those that are named.
std::string map_of(int64_t width, int64_t height, uint16_t value, int bits, bool palette = false,
                   const std::vector<std::pair<size_t, uint16_t>>& others = {}) {
  std::vector<uint16_t> values(static_cast<size_t>(width * height), value);
  for (const auto& [at, other] : others) values[at] = other;
  return text_of(test::png_plane(width, height, values, bits, palette));
}

class DenseDatasets : public ::testing::Test {
 protected:
  DenseDatasets() { ::setenv("DINO_DATA", (scratch_ / "data").c_str(), 1); }
  ~DenseDatasets() override { ::unsetenv("DINO_DATA"); }
  std::string put(const std::string& name, const std::string& content) const {
    return scratch_.put(name, content);
  }
  const Scratch scratch_;
};

TEST_F(DenseDatasets, Ade20kLosesItsZero) {
  const std::string root = scratch_ / "ade";
  for (const std::string name : {"training/ADE_train_00000001", "training/ADE_train_00000002"})
    put("ade/images/" + name + ".jpg", text_of(encode_jpeg(coordinates(4, 3), 90)));
  put("ade/annotations/training/ADE_train_00000001.png", map_of(4, 3, 150, 8, false, {{0, 0}, {1, 1}}));
  put("ade/images/validation/ADE_val_00000001.jpg", text_of(encode_jpeg(coordinates(4, 3), 90)));
  put("ade/annotations/validation/ADE_val_00000001.png", map_of(4, 3, 151, 8));
  const DenseDataset train = open_dense_dataset("ade20k/train:" + root, DenseTask::segmentation);
  EXPECT_EQ(train.name, "ade20k/train");
  EXPECT_EQ(train.classes.size(), 150u);
  EXPECT_EQ(train.classes[0], "wall");
  EXPECT_EQ(train.classes[149], "flag");
  ASSERT_EQ(train.pairs.size(), 1u);
  EXPECT_EQ(train.pairs[0].key, "images/training/ADE_train_00000001");
  ASSERT_EQ(train.faults.size(), 1u);  // the second image has no map
  EXPECT_NE(train.faults[0].find("00000002: its map is not there"), std::string::npos) << train.faults[0];
  const DenseSample sample = read_dense_sample(train, 0);
  EXPECT_EQ(sample.fault, "");
  EXPECT_EQ(sample.labels.labels,
            (std::vector<int16_t>{kIgnoredLabel, 0, 149, 149, 149, 149, 149, 149, 149, 149, 149, 149}));
  EXPECT_EQ(sample.image.width, 4);
  // A number of no class is a fault of the file.
  const DenseDataset val = open_dense_dataset("ade20k/val:" + root, DenseTask::segmentation);
  EXPECT_EQ(read_dense_sample(val, 0).fault, "number 151 is of none of the 150 classes");
  EXPECT_EQ(open_dense_dataset("ade20k/trainval:" + root, DenseTask::segmentation).pairs.size(), 2u);
  // In $DINO_DATA it needs no root.
  std::filesystem::create_directories(scratch_ / "data");
  std::filesystem::create_directory_symlink(root, scratch_ / "data/ade20k");
  EXPECT_EQ(open_dense_dataset("ade20k/val", DenseTask::segmentation).pairs.size(), 1u);
}

TEST_F(DenseDatasets, CityscapesHasNineteenOfItsIds) {
  put("cs/leftImg8bit/val/ulm/ulm_1_2_leftImg8bit.png", picture(3, 2));
  put("cs/gtFine/val/ulm/ulm_1_2_gtFine_labelIds.png",
      map_of(3, 2, 33, 8, false, {{0, 7}, {1, 0}, {2, 34}, {3, 11}}));
  put("cs/gtFine/val/ulm/ulm_1_2_gtFine_color.png", picture(3, 2));
  const DenseDataset val = open_dense_dataset("cityscapes/val:" + (scratch_ / "cs"), DenseTask::segmentation);
  ASSERT_EQ(val.pairs.size(), 1u);
  EXPECT_EQ(val.labels.classes(), 19);
  EXPECT_EQ(read_dense_sample(val, 0).labels.labels,
            (std::vector<int16_t>{0, kIgnoredLabel, kIgnoredLabel, 2, 18, 18}));
}

TEST_F(DenseDatasets, VocReadsPalettesAndLists) {
  put("voc/ImageSets/Segmentation/train.txt", "a\n");
  put("voc/ImageSets/Segmentation/aug.txt", "b\n\n");
  put("voc/ImageSets/Segmentation/val.txt", "b\n");
  for (const std::string name : {"a", "b"}) {
    put("voc/JPEGImages/" + name + ".jpg", text_of(encode_jpeg(coordinates(3, 2), 90)));
    put("voc/SegmentationClass/" + name + ".png", map_of(3, 2, 20, 8, true, {{0, 255}, {1, 0}}));
    put("voc/SegmentationClassAug/" + name + ".png", map_of(3, 2, 5, 8));
  }
  const std::string root = scratch_ / "voc";
  const DenseDataset train = open_dense_dataset("voc2012/train:" + root, DenseTask::segmentation);
  ASSERT_EQ(train.pairs.size(), 1u);
  EXPECT_EQ(read_dense_sample(train, 0).labels.labels,
            (std::vector<int16_t>{kIgnoredLabel, 0, 20, 20, 20, 20}));
  const DenseDataset more = open_dense_dataset("voc2012aug/train:" + root, DenseTask::segmentation);
  ASSERT_EQ(more.pairs.size(), 2u);
  EXPECT_EQ(read_dense_sample(more, 1).labels.labels[0], 5);
  // Lists never lead out of the data set.
  put("voc/ImageSets/Segmentation/val.txt", "b\n../../b\n");
  expect_error<DataError>([&] { (void)open_dense_dataset("voc2012/val:" + root, DenseTask::segmentation); },
                          "val.txt:2", "leaves the data set");
}

TEST_F(DenseDatasets, NyuIsCutForTrainingAndComparedInEigensBox) {
  put("nyu/nyu_train.txt", "/hall/rgb_1.png /hall/sync_1.png 518.8579\n");
  put("nyu/nyu_test.txt", "hall/rgb_1.png hall/sync_1.png 518.8579\n");
  put("nyu/hall/rgb_1.png", picture(640, 480));
  put("nyu/hall/sync_1.png", map_of(640, 480, 2500, 16, false, {{0, 0}, {1, 10001}, {640 * 45 + 43, 7777}}));
  const std::string root = scratch_ / "nyu";
  const DenseDataset test = open_dense_dataset("nyu/test:" + root, DenseTask::depth);
  EXPECT_EQ(test.crop, DepthCrop::eigen);
  const DenseSample whole = read_dense_sample(test, 0);
  EXPECT_EQ(whole.depth.metres[0], 0);  // unknown
  EXPECT_EQ(whole.depth.metres[1], 0);  // beyond 10 m
  EXPECT_EQ(whole.depth.metres[2], 2.5F);
  const Box box = evaluation_box(test.crop, whole.depth.height, whole.depth.width);
  EXPECT_EQ((std::vector<int64_t>{box.top, box.top + box.height, box.left, box.left + box.width}),
            (std::vector<int64_t>{45, 471, 41, 601}));
  const DenseDataset train = open_dense_dataset("nyu/train:" + root, DenseTask::depth);
  const DenseSample cut = read_dense_sample(train, 0, {}, true);
  EXPECT_EQ(cut.image.width, 565);
  EXPECT_EQ(cut.image.height, 427);
  EXPECT_EQ(cut.image.at(0, 0)[0], 43);
  EXPECT_EQ(cut.image.at(0, 0)[1], 45);
  EXPECT_EQ(cut.depth.metres[0], 7.777F);
  EXPECT_THROW((void)evaluation_box(DepthCrop::eigen, 400, 640), DataError);
}

TEST_F(DenseDatasets, KittiKeepsTheStreetAndSkipsWhatHasNoTruth) {
  put("kitti/kitti_eigen_test.txt", "d/a/1.png a/proj/1.png 721.5377\nd/a/2.png None 721.5377\n");
  put("kitti/input/d/a/1.png", picture(1242, 375));
  put("kitti/gt_depth/a/proj/1.png", map_of(1242, 375, 256 * 40, 16, false, {{23 * 1242 + 13, 128}}));
  const DenseDataset test = open_dense_dataset("kitti/test:" + (scratch_ / "kitti"), DenseTask::depth);
  ASSERT_EQ(test.pairs.size(), 1u);
  ASSERT_EQ(test.faults.size(), 1u);
  const DenseSample sample = read_dense_sample(test, 0);
  EXPECT_EQ(sample.image.width, 1216);
  EXPECT_EQ(sample.image.height, 352);
  EXPECT_EQ(sample.depth.metres[0], 0.5F);
  EXPECT_EQ(sample.depth.metres[1], 40);
  const Box box = evaluation_box(test.crop, 352, 1216);  // int(.40810811 * 352) and so on
  EXPECT_EQ((std::vector<int64_t>{box.top, box.top + box.height, box.left, box.left + box.width}),
            (std::vector<int64_t>{143, 349, 43, 1172}));
}

TEST_F(DenseDatasets, SunsNumbersStandRotated) {
  // 9,000 mm: rotated left by three within 16 bits.
  const auto rotated = static_cast<uint16_t>(9000U << 3U | 9000U >> 13U);
  put("sun/SUNRGBD_val_splits.txt", "k/i.png k/d.png\n");
  put("sun/k/i.png", picture(2, 1));
  put("sun/k/d.png", map_of(2, 1, rotated, 16, false, {{1, 8000}}));
  const DenseDataset test = open_dense_dataset("sunrgbd/test:" + (scratch_ / "sun"), DenseTask::depth);
  EXPECT_EQ(read_dense_sample(test, 0).depth.metres, (std::vector<float>{9, 1}));
}

TEST_F(DenseDatasets, ViSPsFrames) {
  const std::string folder =
      "data/packages/visp-images-data/usr/share/visp-images-data/ViSP-images/mbt-depth/castel/castel/";
  const auto depth = [](uint32_t rows, uint32_t columns, const std::string& numbers) {
    std::string text;
    for (const uint32_t v : {rows, columns})
      for (int i = 0; i < 4; ++i) text += static_cast<char>(v >> (8 * i) & 0xffU);
    return text + numbers;
  };
  const std::string numbers("\xe8\x03\x00\x00\xd0\x07\x01\x00", 8);  // 1000, 0, 2000, 1
  for (const std::string i : {"0003", "0021", "0022", "0023"}) {
    put(folder + "image_" + i + ".pgm", "P5\n2 2\n255\nabcd");
    put(folder + "depth_image_" + i + ".bin", depth(2, 2, numbers));
  }
  const DenseDataset train = open_dense_dataset("castle-rgbd/train", DenseTask::depth);
  ASSERT_EQ(train.pairs.size(), 1u);
  EXPECT_EQ(read_dense_sample(train, 0).depth.metres, (std::vector<float>{1, 0, 2, 0}));
  put(folder + "depth_image_0021.bin", depth(2, 2, numbers.substr(1)));
  put(folder + "depth_image_0022.bin", depth(0, 2, ""));
  put(folder + "depth_image_0023.bin", depth(1U << 20U, 1U << 20U, numbers));
  const DenseDataset test = open_dense_dataset("castle-rgbd/test", DenseTask::depth);
  ASSERT_EQ(test.pairs.size(), 3u);
  for (const auto& [i, why] : std::vector<std::pair<int64_t, std::string>>{
           {0, "its map: truncated"}, {1, "its map: corrupt"}, {2, "its map: too_large"}})
    EXPECT_EQ(read_dense_sample(test, i).fault.substr(0, why.size()), why);
}

TEST_F(DenseDatasets, FoldersOfImagesAndMaps) {
  put("set/images/x/a.png", picture(3, 2));
  put("set/images/x/b.png", picture(3, 2));
  put("set/images/c.png", picture(2, 2));
  put("set/images/d.png", "no image");
  put("set/labels/x/a.png", map_of(3, 2, 1, 8, false, {{0, 255}}));
  put("set/labels/c.png", map_of(3, 2, 1, 8));
  put("set/labels/d.png", map_of(3, 2, 1, 8));
  put("set/depth/c.pgm", std::string("P5\n2 2\n65535\n\0\1\0\2\0\3\x27\x11", 21));
  const std::string root = scratch_ / "set";
  expect_error<MissingInputError>([&] { (void)open_dense_dataset(root, DenseTask::segmentation); }, root,
                                  "classes.txt");
  put("set/classes.txt", "cat\r\ndog\n");
  const DenseDataset set = open_dense_dataset(root + "/", DenseTask::segmentation);
  EXPECT_EQ(set.name, "set");
  EXPECT_EQ(set.classes, (std::vector<std::string>{"cat", "dog"}));
  ASSERT_EQ(set.pairs.size(), 3u);
  EXPECT_EQ(set.faults.size(), 1u);  // x/b has no map
  EXPECT_EQ(read_dense_sample(set, 0).fault, "the image has 2 x 2 pixels, the map 3 x 2");
  EXPECT_EQ(read_dense_sample(set, 1).fault.substr(0, 22), "its image: not_an_imag");
  EXPECT_EQ(read_dense_sample(set, 2).labels.labels, (std::vector<int16_t>{kIgnoredLabel, 1, 1, 1, 1, 1}));
  const DenseDataset depth = open_dense_dataset(root, DenseTask::depth);
  ASSERT_EQ(depth.pairs.size(), 1u);
  EXPECT_EQ(read_dense_sample(depth, 0).depth.metres, (std::vector<float>{0.001F, 0.002F, 0.003F, 0}));
}

TEST_F(DenseDatasets, SidecarsInTars) {
  {
    std::filesystem::create_directories(scratch_ / "tars");
    TarWriter tar(scratch_ / "tars/000.tar");
    const auto add = [&](const std::string& name, const std::string& content) {
      tar.add(name, std::span(reinterpret_cast<const uint8_t*>(content.data()), content.size()));
    };
    add("a.png", picture(2, 1));
    add("a.labels", map_of(2, 1, 1, 8));
    add("a.depth", map_of(2, 1, 1500, 16));
    add("b.png", picture(2, 1));
    add("c.png", picture(2, 1));
    add("c.labels", map_of(2, 1, 0, 8));
    tar.close();
  }
  put("tars/classes.txt", "floor\nchair\n");
  const std::string root = scratch_ / "tars";
  for (const std::string& reference : {root, root + "/000.tar"}) {
    const DenseDataset labels = open_dense_dataset(reference, DenseTask::segmentation);
    ASSERT_EQ(labels.pairs.size(), 2u);
    EXPECT_EQ(labels.pairs[0].key, "000/a");
    EXPECT_EQ(read_dense_sample(labels, 0).labels.labels, (std::vector<int16_t>{1, 1}));
    const DenseDataset depth = open_dense_dataset(reference, DenseTask::depth);
    ASSERT_EQ(depth.pairs.size(), 1u);
    EXPECT_EQ(read_dense_sample(depth, 0).depth.metres, (std::vector<float>{1.5F, 1.5F}));
  }
}

TEST_F(DenseDatasets, Hdf5InBothOrders) {
  const int64_t n = 2, height = 4, width = 2;
  Tensor images({n, height, width, 3}, DType::u8), turned({n, 3, width, height}, DType::u8);
  Tensor depths({n, height, width}), turned_depths({n, width, height});
  for (int64_t i = 0; i < n; ++i)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x) {
        const auto z = static_cast<float>(1 + i + y) + 0.1F * static_cast<float>(x);
        depths.as<float>()[(i * height + y) * width + x] = z;
        turned_depths.as<float>()[(i * width + x) * height + y] = z;
        for (int64_t c = 0; c < 3; ++c) {
          const auto value = static_cast<uint8_t>(100 * i + 30 * c + 3 * y + x);
          images.as<uint8_t>()[((i * height + y) * width + x) * 3 + c] = value;
          turned.as<uint8_t>()[((i * 3 + c) * width + x) * height + y] = value;
        }
      }
  depths.as<float>()[0] = std::nanf("");
  turned_depths.as<float>()[0] = 99;
  const auto write = [&](const std::string& name, const Tensor& pictures, const Tensor& targets) {
    Hdf5File file = Hdf5File::create(scratch_ / name);
    file.write("/images", pictures);
    file.write("/depths", targets);
    file.close();
    return scratch_ / name;
  };
  for (const std::string& path : {write("a.h5", images, depths), write("nyu.mat", turned, turned_depths)}) {
    const DenseDataset set = open_dense_dataset(path, DenseTask::depth);
    ASSERT_EQ(set.pairs.size(), 2u);
    const DenseSample first = read_dense_sample(set, 0), second = read_dense_sample(set, 1);
    EXPECT_EQ(first.depth.metres, (std::vector<float>{0, 1.1F, 2, 2.1F, 3, 3.1F, 4, 4.1F}));
    EXPECT_EQ(second.depth.metres[3], 3.1F);
    EXPECT_EQ(second.image.width, 2);
    EXPECT_EQ(second.image.at(1, 2)[2], 100 + 60 + 6 + 1);
    expect_error<DataError>([&] { (void)open_dense_dataset(path, DenseTask::segmentation); }, path,
                            "it has no /labels");
  }
  expect_error<DataError>(
      [&] { (void)open_dense_dataset(write("b.h5", images, turned_depths), DenseTask::depth); }, "b.h5",
      "has not the shape of /images");
  expect_error<DataError>([&] { (void)open_dense_dataset(write("c.h5", depths, depths), DenseTask::depth); },
                          "c.h5", "/images is neither");
}

TEST_F(DenseDatasets, WhatIsNotThereIsNamed) {
  const std::string root = scratch_ / "nothing";
  expect_error<MissingInputError>(
      [&] { (void)open_dense_dataset("ade20k/val:" + root, DenseTask::segmentation); }, root);
  expect_error<MissingInputError>([] { (void)open_dense_dataset("ade20k/val", DenseTask::segmentation); },
                                  "ade20k", "ROOT");
  expect_error<MissingInputError>([] { (void)open_dense_dataset("castle-rgbd/test", DenseTask::depth); },
                                  "visp-images-data", "fetch.sh");
  std::filesystem::create_directories(root);
  expect_error<MissingInputError>(
      [&] { (void)open_dense_dataset("ade20k/test:" + root, DenseTask::segmentation); },
      "'test' is not one of", "trainval");
  expect_error<DataError>([&] { (void)open_dense_dataset("ade20k/val:" + root, DenseTask::segmentation); },
                          "holds no pair");
  expect_error<DataError>([&] { (void)open_dense_dataset("ade20k/val:" + root, DenseTask::depth); },
                          "ade20k");
  expect_error<MissingInputError>([&] { (void)open_dense_dataset("nyu/test:" + root, DenseTask::depth); },
                                  "nyu_test.txt");
  put("plain/a.png", picture(2, 2));
  expect_error<DataError>([&] { (void)open_dense_dataset(scratch_ / "plain", DenseTask::depth); },
                          "no image has a map of depth", "KEY.depth", "kitti");
}

TEST_F(DenseDatasets, BadDefinitionsNameFileAndKey) {
  put("own/a/1.png", picture(2, 1));
  put("own/b/1.png", map_of(2, 1, 3, 8));
  const std::string root = scratch_ / "own";
  const std::string good =
      "task = segmentation\npairs = all: a/(.*) -> b/$1\nclasses = x, y\nvalues = 3, 4\n";
  put("own/dense.cfg", good);
  EXPECT_EQ(read_dense_sample(open_dense_dataset(root, DenseTask::segmentation), 0).labels.labels,
            (std::vector<int16_t>{0, 0}));
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {"task = segmentation\nclasses = x\n", "neither pairs nor list"},
           {"pairs = all: a/(.*) -> b/$1\n", "task"},
           {"task = depht\npairs = all: a -> b\n", "depht"},
           {"task = segmentation\npairs = all: a -> b\n", "classes names"},
           {good + "ignore = 3\n", "number 3 stands for two things"},
           {good + "ignore = 70000\n", "does not fit 16 bits"},
           {"task = segmentation\npairs = all: a -> b\nclasses = x\nvalues = 1, 2\n",
            "2 values for 1 classes"},
           {"task = depth\npairs = all: a( -> b\n", "bad regular expression"},
           {"task = depth\npairs = a -> b\n", "PART: REGEX -> PATH"},
           {"task = depth\nlist = train: a -> b\n", "PART: FILE: PATH -> PATH"},
           {"task = depth\npairs = all: a -> b\nmin-depth = 5\nmax-depth = 2\n", "min-depth"},
           {good + "root = p:q\n", "root is for packages"},
           {good + "colour = 1\n", "colour"}}) {
    put("own/dense.cfg", text);
    expect_error<DataError>([&] { (void)open_dense_dataset(root, DenseTask::segmentation); }, "dense.cfg",
                            why);
  }
}

TEST_F(DenseDatasets, ShippedDefinitionsAreSound) {
  EXPECT_EQ(dense_dataset_names(), (std::vector<std::string>{"ade20k", "castle-rgbd", "cityscapes", "kitti",
                                                             "nyu", "sunrgbd", "voc2012", "voc2012aug"}));
}

TEST(DenseMaps, NearestPixels) {
  const LabelMap map{4, 1, {0, 1, 2, 3}};
  EXPECT_EQ(resize_nearest(map, 2, 2).labels, (std::vector<int16_t>{1, 3, 1, 3}));
  EXPECT_EQ(resize_nearest(map, 8, 1).labels, (std::vector<int16_t>{0, 0, 1, 1, 2, 2, 3, 3}));
  const DepthMap depth{2, 2, {1, 2, 3, 4}};
  EXPECT_EQ(crop(depth, {1, 0, 1, 2}).metres, (std::vector<float>{3, 4}));
  EXPECT_THROW((void)crop(depth, {1, 0, 2, 2}), InternalError);
}

}  // namespace
}  // namespace dino
