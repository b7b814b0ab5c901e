// SPDX-License-Identifier: Apache-2.0
// The dense tasks from images to rows, on small sets made here, and the parts that they are made of.
#include <gtest/gtest.h>

#include <cmath>

#include "base/json.hpp"
#include "heads/dense_neighbours.hpp"
#include "imaging/sample_planes.hpp"
#include "inputs/dense_images.hpp"
#include "storage/scratch.hpp"
#include "task_call.hpp"

namespace dino::eval {
namespace {

using dino::testing::expect_error;
using dino::testing::Scratch;

std::string as_text(const std::vector<uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

/// 32 x 24 pictures of a bright rectangle on a dark ground; class 1, and near, is the rectangle.
class DenseTasks : public ::testing::Test {
 protected:
  DenseTasks() {
    for (int i = 0; i < 16; ++i) {
      Random random(1, RandomStream::test, static_cast<uint64_t>(i));
      const auto left = static_cast<int64_t>(8 * random.below(3)),
                 top = static_cast<int64_t>(8 * random.below(2));
      Image image{32, 24, 3, {}};
      std::vector<uint16_t> labels, depth;
      for (int64_t y = 0; y < 24; ++y)
        for (int64_t x = 0; x < 32; ++x) {
          const bool inside = x >= left && x < left + 16 && y >= top && y < top + 16;
          for (int c = 0; c < 3; ++c)
            image.pixels.push_back(
                static_cast<uint8_t>((inside ? 170 : 60) + static_cast<int>(random.below(40))));
          labels.push_back(x == 0 ? 255 : inside ? 1 : 0);
          depth.push_back(x == 31 ? 0 : inside ? 1000 : 4000);
        }
      const std::string name = "/" + std::to_string(100 + i) + ".png";
      scratch_.put("set/images" + name, as_text(encode_png(image)));
      scratch_.put("set/labels" + name, as_text(test::png_plane(32, 24, labels, 8)));
      scratch_.put("set/depth" + name, as_text(test::png_plane(32, 24, depth, 16)));
    }
    scratch_.put("set/classes.txt", "ground\nbox\n");
  }
  /// metric -> value
  std::map<std::string, double> run(const std::string& task, std::vector<std::string> words,
                                    const std::string& weights = "raw-pixels") const {
    TaskCall wanted{task, {scratch_ / "set", scratch_ / "set"}, std::move(words)};
    wanted.options.model.weights = weights;
    wanted.options.model.patch = 4;
    wanted.options.force = true;
    std::map<std::string, double> values;
    for (const std::string& line : call(wanted, scratch_ / "results")) {
      const auto row = nlohmann::json::parse(line);
      values[row.at("metric")] = row.at("value");
      EXPECT_EQ(row.at("n"), 16) << line;
      EXPECT_LE(row.at("low"), row.at("value"));
      EXPECT_GE(row.at("high"), row.at("value"));
    }
    return values;
  }
  const Scratch scratch_;
};

TEST_F(DenseTasks, SegmentFindsTheBox) {
  for (const auto& [head, least] :
       std::vector<std::pair<std::string, double>>{{"linear", 0.8}, {"ms", 0.75}, {"knn", 0.75}}) {
    const auto values = run("segment", {"--head", head, "--size", "24", "--epochs", "60", "--batch", "8",
                                        "--lr", "0.05", "--scales", "1,1.5", "--k", "5"});
    EXPECT_EQ(values.size(), 3u);
    EXPECT_GT(values.at("miou"), least) << head;
    EXPECT_GE(values.at("macc"), values.at("miou"));
    EXPECT_GT(values.at("aacc"), 0.85);
  }
  // On a transformer, with what is published for the inputs.
  EXPECT_GT(run("segment", {"--size", "24", "--steps", "60", "--lr", "0.02", "--augment", "published"},
                "random:vit_micro")
                .at("miou"),
            0.4);
}

TEST_F(DenseTasks, DepthFindsTheBox) {
  // The best constant is 1.4 m off.
  for (const std::string head : {"linear", "ms", "dpt"}) {
    const auto values = run("depth", {"--head", head, "--size", "24", "--steps", head == "dpt" ? "60" : "500",
                                      "--batch", "4", "--lr", head == "dpt" ? "0.01" : "0.05", "--fusion",
                                      "8", "--augment", head == "ms" ? "published" : "none"});
    EXPECT_EQ(values.size(), 9u);
    EXPECT_LT(values.at("rmse"), 1.1) << head;
    EXPECT_GT(values.at("delta1"), 0.4) << head;
    EXPECT_LE(values.at("delta1"), values.at("delta2"));
  }
}

TEST_F(DenseTasks, WhatDoesNotFitIsSaid) {
  expect_error<UsageError>(
      [&] {
        (void)run("segment", {"--size", "22"});
      },
      "segment", "--size 22", "patch side 4");
  expect_error<UsageError>([&] { (void)run("segment", {"--scales", "0.5"}); }, "--scales");
  scratch_.put("set/classes.txt", "ground\n");
  expect_error<DataError>(
      [&] {
        (void)run("segment", {"--size", "24"});
      },
      "cannot train", "number 1 is of none");
}

TEST(DenseInputs, PublishedCropsAreTheSeedsAlone) {
  DenseSample sample;
  sample.image = {40, 30, 3, std::vector<uint8_t>(40 * 30 * 3)};
  for (size_t i = 0; i < sample.image.pixels.size(); ++i)
    sample.image.pixels[i] = static_cast<uint8_t>(i * 7);
  sample.labels = {40, 30, std::vector<int16_t>(40 * 30, 1)};
  sample.depth = {40, 30, std::vector<float>(40 * 30, 2)};
  for (const DenseTask task : {DenseTask::segmentation, DenseTask::depth})
    for (uint64_t i = 0; i < 20; ++i) {
      const auto crop = [&] {
        return training_crop(sample, task, {28, 56}, 0.5, 2, DenseAugment::published,
                             Random(3, RandomStream::augment, i));
      };
      const DenseSample made = crop();
      EXPECT_EQ(made.image.width, 56);
      EXPECT_EQ(made.image.height, 28);
      EXPECT_EQ(made.image.pixels, crop().image.pixels);
      if (task == DenseTask::segmentation) {
        ASSERT_EQ(made.labels.labels.size(), 28u * 56);
        // What the image does not reach does not count.
        EXPECT_TRUE(std::all_of(made.labels.labels.begin(), made.labels.labels.end(),
                                [](int16_t l) { return l == 1 || l == kIgnoredLabel; }));
      } else {
        ASSERT_EQ(made.depth.metres.size(), 28u * 56);
        EXPECT_TRUE(std::all_of(made.depth.metres.begin(), made.depth.metres.end(),
                                [](float z) { return z == 2 || z == 0; }));
      }
    }
}

TEST(DenseInputs, ImagesArePaddedEvenlyToPatches) {
  Image image{5, 3, 3, std::vector<uint8_t>(45, 9)};
  Box inner;
  const Image padded = padded_to_patches(image, 4, inner);
  EXPECT_EQ(padded.width, 8);
  EXPECT_EQ(padded.height, 4);
  EXPECT_EQ((std::vector<int64_t>{inner.top, inner.left, inner.height, inner.width}),
            (std::vector<int64_t>{0, 1, 3, 5}));
  EXPECT_EQ(padded.at(0, 0)[0], 0);
  EXPECT_EQ(padded.at(1, 0)[0], 9);
  EXPECT_EQ(padded.at(5, 2)[0], 9);
  EXPECT_EQ(padded.at(6, 2)[0], 0);
  EXPECT_EQ(scaled_to(image, 6).width, 10);
  EXPECT_EQ(scaled_to(image, 6).height, 6);
}

TEST(DenseReading, BlocksAsPublished) {
  EXPECT_EQ(spread_blocks(12), (std::vector<int64_t>{2, 5, 8, 11}));
  EXPECT_EQ(spread_blocks(24), (std::vector<int64_t>{4, 11, 17, 23}));
  EXPECT_EQ(spread_blocks(40), (std::vector<int64_t>{9, 19, 29, 39}));
  EXPECT_EQ(spread_blocks(1), (std::vector<int64_t>{0, 0, 0, 0}));
  EXPECT_EQ(last_blocks(12, 4), (std::vector<int64_t>{8, 9, 10, 11}));
  EXPECT_EQ(last_blocks(2, 4), (std::vector<int64_t>{0, 0, 0, 1}));
}

}  // namespace
}  // namespace dino::eval
