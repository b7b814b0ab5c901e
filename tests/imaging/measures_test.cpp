// SPDX-License-Identifier: Apache-2.0
#include "imaging/measures.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cmath>

#include "imaging/sample_files.hpp"

namespace dino {
namespace {

using test::picture;

std::vector<float> descriptor(const Image& image) {
  std::vector<float> d(kCopyDescriptorSize);
  copy_descriptor(image, d.data());
  return d;
}

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

/// A sprite: a few filled shapes on white, as icons are.
Image sprite(int seed) {
  Image image{72, 72, 3, std::vector<uint8_t>(72 * 72 * 3, 255)};
  Random random(static_cast<uint64_t>(seed), RandomStream::test, 2);
  for (int shape = 0; shape < 6; ++shape) {
    const double cx = random.uniform(15, 57), cy = random.uniform(15, 57), rx = random.uniform(4, 16),
                 ry = random.uniform(4, 16);
    const uint8_t colour[3] = {static_cast<uint8_t>(random.below(230)),
                               static_cast<uint8_t>(random.below(230)),
                               static_cast<uint8_t>(random.below(230))};
    const bool rectangle = random.bernoulli(0.5);
    for (int64_t y = 0; y < 72; ++y) {
      for (int64_t x = 0; x < 72; ++x) {
        const double u = (static_cast<double>(x) - cx) / rx, v = (static_cast<double>(y) - cy) / ry;
        const bool inside = rectangle ? std::fabs(u) < 1 && std::fabs(v) < 1 : u * u + v * v < 1;
        if (inside) std::copy_n(colour, 3, image.at(x, y));
      }
    }
  }
  return image;
}

Image inner(const Image& image, double margin) {
  const auto cut = [&](int64_t side) { return static_cast<int64_t>(margin * static_cast<double>(side)); };
  const Box box{cut(image.height), cut(image.width), image.height - 2 * cut(image.height),
                image.width - 2 * cut(image.width)};
  return resize(image, box, box.width, box.height);
}

TEST(Quality, KnownPictures) {
  const Image flat{64, 64, 3, std::vector<uint8_t>(64 * 64 * 3, 90)};
  const QualityMeasures f = measure_quality(flat);
  EXPECT_EQ(f.blur, 0);
  EXPECT_EQ(f.entropy, 0);
  EXPECT_EQ(f.brightness, 90);
  EXPECT_EQ(f.contrast, 0);
  EXPECT_EQ(f.saturation, 0);
  EXPECT_EQ(f.border, 1);
  // A checkerboard: two levels = 1 bit; |Laplacian| = 4 * 255 everywhere, alternating in sign.
  Image board{64, 64, 3, std::vector<uint8_t>(64 * 64 * 3, 0)};
  for (int64_t y = 0; y < 64; ++y) {
    for (int64_t x = 0; x < 64; ++x) std::fill_n(board.at(x, y), 3, (x + y) % 2 == 0 ? 255 : 0);
  }
  const QualityMeasures b = measure_quality(board);
  EXPECT_NEAR(b.entropy, 1.0F, 1e-6F);
  EXPECT_FLOAT_EQ(b.blur, 1020.0F * 1020.0F);
  EXPECT_FLOAT_EQ(b.contrast, 127.5F);
  EXPECT_EQ(b.border, 0);
  // Entropy against the C library.
  const Image image = picture(100, 80);
  std::vector<double> histogram(256);
  const Image gray = to_grayscale(image);
  for (size_t i = 0; i < gray.pixels.size(); i += 3) histogram[gray.pixels[i]] += 1.0 / 8000;
  double entropy = 0;
  for (double p : histogram) entropy -= p > 0 ? p * std::log2(p) : 0;
  EXPECT_NEAR(measure_quality(image).entropy, entropy, 1e-5);
}

TEST(Quality, BlurFallsAndBordersCount) {
  const Image image = sprite(3);
  const float sharp = measure_quality(image).blur;
  EXPECT_LT(measure_quality(gaussian_blur(image, 1.5)).blur, 0.3F * sharp);
  Image framed{100, 100, 3, std::vector<uint8_t>(100 * 100 * 3, 0)};
  const Image inside = picture(50, 50);
  for (int64_t y = 0; y < 50; ++y) std::copy_n(inside.at(0, y), 150, framed.at(25, 25 + y));
  EXPECT_NEAR(measure_quality(framed).border, 0.75F, 0.02F);
  EXPECT_EQ(measure_quality(Image{1, 1, 3, {1, 2, 3}}).blur, 0);
}

TEST(PerceptualHash, SurvivesNearCopiesOnly) {
  std::vector<uint64_t> hashes;
  for (int i = 0; i < 40; ++i) {
    const Image image = sprite(i);
    const uint64_t hash = perceptual_hash(image);
    EXPECT_LE(std::popcount(hash ^ perceptual_hash(resize(image, 150, 150))), 8);
    EXPECT_LE(std::popcount(hash ^ perceptual_hash(decode_image(encode_jpeg(image, 75)).image)), 8);
    hashes.push_back(hash);
  }
  int close = 0;
  for (size_t i = 0; i < hashes.size(); ++i) {
    for (size_t j = i + 1; j < hashes.size(); ++j) close += std::popcount(hashes[i] ^ hashes[j]) <= 8;
  }
  EXPECT_LE(close, 2);
  const Image flat{50, 40, 3, std::vector<uint8_t>(50 * 40 * 3, 77)};
  EXPECT_EQ(perceptual_hash(flat), 0U);
}

TEST(CopyDescriptor, SeparatesCopiesFromOthers) {
  std::vector<std::vector<float>> all;
  for (int i = 0; i < 60; ++i) {
    const Image image = i % 2 == 0 ? sprite(i) : picture(90, 70, i);
    const std::vector<float> d = descriptor(image);
    EXPECT_NEAR(cosine(d, d), 1.0, 1e-5);
    EXPECT_GT(cosine(d, descriptor(resize(image, 2 * image.width, 2 * image.height))), 0.98) << i;
    EXPECT_GT(cosine(d, descriptor(resize(image, image.width / 2, image.height / 2))), 0.95) << i;
    EXPECT_GT(cosine(d, descriptor(decode_image(encode_jpeg(image, 75)).image)), 0.95) << i;
    EXPECT_GT(cosine(d, descriptor(adjust_brightness(image, 1.08))), 0.95) << i;
    EXPECT_GT(cosine(d, descriptor(adjust_saturation(image, 0.8))), 0.95) << i;
    EXPECT_GT(cosine(d, descriptor(inner(image, 0.015))), 0.85) << i;
    all.push_back(d);
  }
  int close = 0, pairs = 0;
  for (size_t i = 0; i < all.size(); i += 2) {
    for (size_t j = i + 2; j < all.size(); j += 2, ++pairs) close += cosine(all[i], all[j]) > 0.8;
  }
  EXPECT_EQ(close, 0) << "of " << pairs << " pairs of different sprites";
}

TEST(CopyDescriptor, FlatPicturesKeepTheirColour) {
  const auto flat = [](uint8_t r, uint8_t g, uint8_t b) {
    Image image{20, 20, 3, {}};
    for (int i = 0; i < 400; ++i) image.pixels.insert(image.pixels.end(), {r, g, b});
    return descriptor(image);
  };
  EXPECT_NEAR(cosine(flat(255, 0, 0), flat(255, 0, 0)), 1.0, 1e-6);
  EXPECT_LT(cosine(flat(255, 0, 0), flat(0, 0, 255)), 0.8);
  EXPECT_NEAR(cosine(flat(9, 9, 9), flat(9, 9, 9)), 1.0, 1e-6);
}

TEST(CopyDescriptor, IsFast) {
  const std::vector<uint8_t> png = encode_png(sprite(1));
  const auto start = std::chrono::steady_clock::now();
  constexpr int kRounds = 50;
  float sink = 0;
  for (int i = 0; i < kRounds; ++i) {
    const Image image = decode_image(png).image;
    sink +=
        measure_quality(image).blur + static_cast<float>(perceptual_hash(image) & 1) + descriptor(image)[0];
  }
  const double milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() / kRounds;
  RecordProperty("milliseconds_per_image", std::to_string(milliseconds));
  printf("decode, measures, hash and descriptor of 72 x 72: %.3f ms (%g)\n", milliseconds, double{sink});
  // Generous: sanitizers and a busy machine.
  EXPECT_LT(milliseconds, 20.0);
}

}  // namespace
}  // namespace dino
