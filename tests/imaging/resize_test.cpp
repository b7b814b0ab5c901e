// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "imaging/augment.hpp"
#include "imaging/sample_files.hpp"

namespace dino {
namespace {

using test::picture;

double bicubic(double x) {
  x = std::fabs(x);
  if (x < 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
  if (x < 2) return -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2;
  return 0;
}

/// Antialiased bicubic in fp64 on one axis, straight from its definition.
std::vector<double> naive_axis(const std::vector<double>& in, int64_t out) {
  const double scale = static_cast<double>(in.size()) / static_cast<double>(out), wide = std::max(1.0, scale);
  std::vector<double> result;
  for (int64_t i = 0; i < out; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    double sum = 0, weights = 0;
    for (size_t x = 0; x < in.size(); ++x) {
      const double w = bicubic((static_cast<double>(x) + 0.5 - centre) / wide);
      sum += w * in[x];
      weights += w;
    }
    result.push_back(sum / weights);
  }
  return result;
}

TEST(Resize, AgreesWithNaiveBicubic) {
  const Image image = picture(53, 31);
  for (const auto& [w, h] :
       std::vector<std::pair<int64_t, int64_t>>{{20, 17}, {90, 70}, {7, 60}, {53, 31}, {1, 1}}) {
    const Image small = resize(image, w, h);
    for (int c = 0; c < 3; ++c) {
      std::vector<std::vector<double>> wide;
      for (int64_t y = 0; y < image.height; ++y) {
        std::vector<double> row;
        for (int64_t x = 0; x < image.width; ++x) row.push_back(image.at(x, y)[c]);
        wide.push_back(naive_axis(row, w));
      }
      for (int64_t x = 0; x < w; ++x) {
        std::vector<double> column;
        for (const auto& row : wide) column.push_back(std::clamp(row[static_cast<size_t>(x)], 0.0, 255.0));
        const std::vector<double> expected = naive_axis(column, h);
        for (int64_t y = 0; y < h; ++y) {
          // Two roundings to 8 bits: half a level each, the first one carried by weights that sum to 1.3.
          EXPECT_NEAR(small.at(x, y)[c], std::clamp(expected[static_cast<size_t>(y)], 0.0, 255.0), 1.3);
        }
      }
    }
  }
}

TEST(Resize, KeepsConstantsAndIdentity) {
  const Image flat{17, 9, 4, std::vector<uint8_t>(17 * 9 * 4, 201)};
  for (Resampling filter : {Resampling::bicubic, Resampling::bilinear, Resampling::box}) {
    for (uint8_t p : resize(flat, 5, 33, filter).pixels) ASSERT_EQ(p, 201);
  }
  const Image image = picture(19, 8);
  EXPECT_EQ(resize(image, 19, 8).pixels, image.pixels);
  const Image two{2, 1, 1, {0, 255}};
  EXPECT_EQ(resize(two, 1, 1, Resampling::box).pixels[0], 128);
}

TEST(Resize, OnlyTheBoxContributes) {
  Image image = picture(40, 40);
  const Box box{10, 12, 15, 9};
  const Image before = resize(image, box, 21, 22);
  for (int64_t y = 0; y < 40; ++y) {
    for (int64_t x = 0; x < 40; ++x) {
      const bool inside = y >= 10 && y < 25 && x >= 12 && x < 21;
      if (!inside) image.at(x, y)[0] = image.at(x, y)[1] = image.at(x, y)[2] = 255;
    }
  }
  EXPECT_EQ(resize(image, box, 21, 22).pixels, before.pixels);
  EXPECT_THROW((void)resize(image, Box{30, 30, 11, 10}, 5, 5), InternalError);
}

TEST(Resize, CenterCropPadsSmallImages) {
  const Image small = resize_center_crop(picture(30, 20), 20, 24);
  EXPECT_EQ(small.width, 24);
  EXPECT_EQ(small.height, 24);
  EXPECT_EQ(small.at(12, 0)[0] + small.at(12, 1)[1], 0);  // two black rows above
  const Image square = pad_to_square(picture(30, 20), {1, 2, 3});
  EXPECT_EQ(square.width, 30);
  EXPECT_EQ(square.height, 30);
  EXPECT_EQ(square.at(0, 0)[2], 3);
}

TEST(RandomResizedCrop, FollowsItsDistribution) {
  constexpr int64_t kWidth = 500, kHeight = 375;
  const double area = kWidth * kHeight;
  double mean_scale = 0, mean_log_aspect = 0, smallest = 1, largest = 0;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    Random random(1, RandomStream::augment, static_cast<uint64_t>(i));
    const Box box = random_resized_crop_box(kWidth, kHeight, 0.05, 0.32, random);
    ASSERT_GE(box.left, 0);
    ASSERT_GE(box.top, 0);
    ASSERT_LE(box.left + box.width, kWidth);
    ASSERT_LE(box.top + box.height, kHeight);
    const double scale = static_cast<double>(box.width * box.height) / area;
    smallest = std::min(smallest, scale), largest = std::max(largest, scale);
    mean_scale += scale / kDraws;
    mean_log_aspect += std::log(static_cast<double>(box.width) / static_cast<double>(box.height)) / kDraws;
  }
  // U(0.05, 0.32): mean 0.185, std 0.078 / sqrt(20000) = 0.00055; the aspect is symmetric in its logarithm.
  EXPECT_NEAR(mean_scale, 0.185, 0.003);
  EXPECT_NEAR(mean_log_aspect, 0.0, 0.006);
  EXPECT_NEAR(smallest, 0.05, 0.003);
  EXPECT_NEAR(largest, 0.32, 0.004);
}

TEST(RandomResizedCrop, FallsBackToTheCentre) {
  // 1000 x 10: no box of at least 90 % of the area has an aspect below 4/3, so the fallback cuts the middle.
  Random random(1, RandomStream::test, 5);
  const Box box = random_resized_crop_box(1000, 10, 0.9, 1.0, random);
  EXPECT_EQ(box.height, 10);
  EXPECT_EQ(box.width, 13);
  EXPECT_EQ(box.left, (1000 - 13) / 2);
  const Box one = random_resized_crop_box(1, 1, 0.05, 0.32, random);
  EXPECT_EQ(one.width, 1);
  EXPECT_EQ(one.height, 1);
}

TEST(AugmentCrop, IsAFunctionOfItsRandomStream) {
  const Image image = picture(80, 60);
  AugmentConfig config;
  config.global_size = 32, config.local_size = 16;
  for (CropKind kind : {CropKind::global1, CropKind::global2, CropKind::local}) {
    Random a(3, RandomStream::augment, 9), b(3, RandomStream::augment, 9), c(3, RandomStream::augment, 10);
    const Image first = augment_crop(image, kind, config, a);
    EXPECT_EQ(first.width, kind == CropKind::local ? 16 : 32);
    EXPECT_EQ(first.pixels, augment_crop(image, kind, config, b).pixels);
    EXPECT_NE(first.pixels, augment_crop(image, kind, config, c).pixels);
  }
}

TEST(AugmentCrop, ResamplingIsTheOneAskedFor) {
  const Image image = picture(40, 40);
  AugmentConfig config;
  config.global_size = 24;
  config.jitter = 0, config.flip = 0, config.solarize = 0, config.grayscale = 0;
  config.blur = BlurSetting::off;
  for (const Resampling filter : {Resampling::bicubic, Resampling::bilinear}) {
    config.resampling = filter;
    Random crop(7, RandomStream::augment, 1), again(7, RandomStream::augment, 1);
    // The box is the first draw.
    const Box box = random_resized_crop_box(40, 40, config.global_scale_min, config.global_scale_max, again);
    EXPECT_EQ(augment_crop(image, CropKind::global1, config, crop).pixels,
              resize(image, box, 24, 24, filter).pixels);
  }
}

TEST(AugmentCrop, FrequenciesOfItsOperations) {
  // Without colour jitter a gray result means grayscale, and a difference to the plain crop means blur.
  const Image image = picture(40, 40);
  AugmentConfig config;
  config.global_size = 24, config.local_size = 24;
  config.jitter = 0, config.flip = 0, config.solarize = 0;
  config.blur = BlurSetting::off;
  int gray = 0;
  constexpr int kDraws = 2000;
  std::vector<Image> plain;
  for (int i = 0; i < kDraws; ++i) {
    Random random(5, RandomStream::augment, static_cast<uint64_t>(i));
    plain.push_back(augment_crop(image, CropKind::global2, config, random));
    bool equal = true;
    for (size_t p = 0; p < plain.back().pixels.size(); p += 3) {
      equal = equal && plain.back().pixels[p] == plain.back().pixels[p + 1];
    }
    gray += equal;
  }
  EXPECT_NEAR(gray / double{kDraws}, 0.2, 0.03);
  for (const auto& [setting, rate] :
       {std::pair{BlurSetting::paper, 0.1}, std::pair{BlurSetting::reference, 0.9}}) {
    config.blur = setting;
    int blurred = 0;
    for (int i = 0; i < kDraws; ++i) {
      Random random(5, RandomStream::augment, static_cast<uint64_t>(i));
      blurred += augment_crop(image, CropKind::global2, config, random).pixels !=
                 plain[static_cast<size_t>(i)].pixels;
    }
    // A sigma below about 0.3 changes nothing: a tenth of the draws.
    EXPECT_LE(blurred / double{kDraws}, rate + 0.02);
    EXPECT_GE(blurred / double{kDraws}, rate * 0.8);
  }
}

}  // namespace
}  // namespace dino
