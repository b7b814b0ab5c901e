// SPDX-License-Identifier: Apache-2.0
#include "imaging/corruptions.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace dino {
namespace {

Random draws(uint64_t index = 1) {
  return {3, RandomStream::spoil, index};
}

Image plain(int64_t width, int64_t height, Colour colour) {
  Image image{width, height, 3, {}};
  for (int64_t i = 0; i < width * height; ++i)
    image.pixels.insert(image.pixels.end(), colour.begin(), colour.end());
  return image;
}

/// Smooth colours with edges and a little texture.
Image scene(int64_t width, int64_t height) {
  Image image = plain(width, height, {0, 0, 0});
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      uint8_t* pixel = image.at(x, y);
      const bool inside = (x - width / 2) * (x - width / 2) + (y - height / 3) * (y - height / 3) < width * 9;
      pixel[0] = static_cast<uint8_t>(40 + 120 * x / width + (inside ? 60 : 0));
      pixel[1] = static_cast<uint8_t>(60 + 100 * y / height + (x / 8 + y / 8) % 2 * 20);
      pixel[2] = static_cast<uint8_t>(inside ? 30 : 150);
    }
  return image;
}

double distance(const Image& a, const Image& b) {
  double sum = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) {
    const double d = static_cast<double>(a.pixels[i]) - static_cast<double>(b.pixels[i]);
    sum += d * d;
  }
  return std::sqrt(sum / static_cast<double>(a.pixels.size()));
}

TEST(Corruptions, KeepTheSizeAndDependOnTheDrawsAlone) {
  const Image image = scene(96, 80);
  for (const auto& [name, kind] : names_of(Corruption{}))
    for (int severity = 1; severity <= kSeverities; ++severity) {
      const Image once = corrupt(image, kind, severity, draws()),
                  again = corrupt(image, kind, severity, draws());
      ASSERT_EQ(once.width, 96) << name;
      ASSERT_EQ(once.height, 80) << name;
      ASSERT_EQ(once.pixels.size(), image.pixels.size()) << name;
      ASSERT_EQ(once.pixels, again.pixels) << name;
      ASSERT_NE(once.pixels, image.pixels) << name << " " << severity;
      const bool drawn = kind <= Corruption::speckle_noise || kind == Corruption::glass_blur ||
                         kind == Corruption::motion_blur || kind == Corruption::fog ||
                         kind == Corruption::occlusion;
      ASSERT_EQ(corrupt(image, kind, severity, draws(2)).pixels == once.pixels, !drawn) << name;
    }
  // Pictures smaller than any kernel.
  for (const auto& [name, kind] : names_of(Corruption{}))
    for (const Image& small : {scene(1, 1), scene(3, 17)})
      ASSERT_EQ(corrupt(small, kind, 5, draws()).pixels.size(), small.pixels.size()) << name;
}

TEST(Corruptions, GrowWithSeverity) {
  const Image image = scene(128, 128);
  for (const auto& [name, kind] : names_of(Corruption{})) {
    if (kind == Corruption::saturate) continue;  // less of it, then more
    double before = 0;
    for (int severity = 1; severity <= kSeverities; ++severity) {
      const double now = distance(image, corrupt(image, kind, severity, draws()));
      // Of glass, the published degrees trade reach for rounds; fog's fractal is another at each decay;
      // blocks fit this picture's squares more or less well.
      const bool uneven =
          kind == Corruption::glass_blur || kind == Corruption::fog || kind == Corruption::pixelate;
      const double slack = uneven ? 0.8 : 1.0;
      EXPECT_GT(now, before * slack) << name << " " << severity;
      before = now;
    }
  }
}

TEST(Corruptions, BlursLeaveAPlainPictureAlone) {
  const Image gray = plain(70, 50, {90, 160, 33});
  for (const Corruption kind :
       {Corruption::defocus_blur, Corruption::glass_blur, Corruption::gaussian_blur, Corruption::motion_blur,
        Corruption::zoom_blur, Corruption::contrast, Corruption::pixelate, Corruption::resolution})
    for (int severity = 1; severity <= kSeverities; ++severity)
      EXPECT_EQ(corrupt(gray, kind, severity, draws()).pixels, gray.pixels) << name_of(kind);
}

TEST(Corruptions, NoiseHasItsPublishedStrength) {
  const Image gray = plain(200, 200, {128, 128, 128});
  const auto deviation = [&](Corruption kind, int severity) {
    return distance(gray, corrupt(gray, kind, severity, draws())) / 255;
  };
  EXPECT_NEAR(deviation(Corruption::gaussian_noise, 1), 0.08, 0.002);
  EXPECT_NEAR(deviation(Corruption::gaussian_noise, 2), 0.12, 0.002);
  EXPECT_NEAR(deviation(Corruption::speckle_noise, 1), 0.15 * 128 / 255, 0.002);
  // Counts of mean 60 v: variance v / 60.
  EXPECT_NEAR(deviation(Corruption::shot_noise, 1), std::sqrt(128.0 / 255 / 60), 0.002);
  const Image shot = corrupt(gray, Corruption::shot_noise, 1, draws());
  const double mean =
      std::accumulate(shot.pixels.begin(), shot.pixels.end(), 0.0) / static_cast<double>(shot.pixels.size());
  EXPECT_NEAR(mean, 127.5, 0.5);
  const std::set<int> levels(shot.pixels.begin(), shot.pixels.end());
  for (const int value : levels)
    EXPECT_EQ(value, static_cast<int>(std::round(value / 255.0 * 60) / 60 * 255 + 1e-3));
  const Image salted = corrupt(gray, Corruption::impulse_noise, 5, draws());
  const auto count = [&](uint8_t value) {
    return static_cast<double>(std::count(salted.pixels.begin(), salted.pixels.end(), value)) /
           (200 * 200 * 3);
  };
  EXPECT_NEAR(count(0), 0.135, 0.004);
  EXPECT_NEAR(count(255), 0.135, 0.004);
  EXPECT_NEAR(count(128), 0.73, 0.006);
}

TEST(Corruptions, ColoursByHand) {
  Image one = plain(2, 1, {100, 150, 200});
  std::copy_n(std::to_array<uint8_t>({0, 0, 0}).begin(), 3, one.at(1, 0));
  // Value 200/255 + .1, the same saturation 1/2 and hue.
  const Image bright = corrupt(one, Corruption::brightness, 1, draws());
  EXPECT_EQ(bright.pixels, (std::vector<uint8_t>{112, 169, 225, 25, 25, 25}));
  // Saturation .5 x .3: 200 (1 - .15) and halfway.
  const Image pale = corrupt(one, Corruption::saturate, 1, draws());
  EXPECT_EQ(pale.pixels, (std::vector<uint8_t>{170, 185, 200, 0, 0, 0}));
  // Contrast .4 about the channels' means 50, 75, 100.
  const Image flat = corrupt(one, Corruption::contrast, 1, draws());
  EXPECT_EQ(flat.pixels, (std::vector<uint8_t>{70, 105, 140, 30, 45, 60}));
  // A gray pixel that gains saturation turns red, as hue 0 is: .2 of it at the strongest.
  const Image gray = corrupt(plain(1, 1, {100, 100, 100}), Corruption::saturate, 5, draws());
  EXPECT_EQ(gray.pixels, (std::vector<uint8_t>{100, 80, 80}));
}

TEST(Corruptions, ADotBecomesADiskAndALine) {
  Image dot = plain(61, 61, {0, 0, 0});
  std::fill_n(dot.at(30, 30), 3, 255);
  // The points of a disk of radius 3: 29 of them, each with 1/29 (the smoothing of .1 pixels is nothing).
  const Image disk = corrupt(dot, Corruption::defocus_blur, 1, draws());
  int64_t lit = 0;
  for (int64_t y = 0; y < 61; ++y)
    for (int64_t x = 0; x < 61; ++x)
      if (disk.at(x, y)[0] > 0) {
        ++lit;
        EXPECT_EQ(disk.at(x, y)[0], 255 / 29);
        EXPECT_LE((x - 30) * (x - 30) + (y - 30) * (y - 30), 9);
      }
  EXPECT_EQ(lit, 29);
  // Motion: within 45 degrees of level, to one side, fading.
  const Image line = corrupt(dot, Corruption::motion_blur, 1, draws());
  for (int64_t y = 0; y < 61; ++y)
    for (int64_t x = 0; x < 61; ++x)
      if (line.at(x, y)[0] > 0) {
        EXPECT_LE(x, 30);
        EXPECT_GE(30 - x + 1, std::abs(y - 30));
      }
  EXPECT_GT(line.at(30, 30)[0], 255 / 6);
}

TEST(Corruptions, OcclusionHidesItsShareAndEachDegreeTheNextOnes) {
  const Image white = plain(224, 224, {255, 255, 255});
  std::vector<uint8_t> before(white.pixels);
  const double parts[] = {0.1, 0.3, 0.5, 0.7, 0.9};
  for (int severity = 1; severity <= kSeverities; ++severity) {
    const Image hidden = corrupt(white, Corruption::occlusion, severity, draws());
    const auto black = std::count(hidden.pixels.begin(), hidden.pixels.end(), 0);
    EXPECT_EQ(black, std::lround(parts[severity - 1] * 196) * 16 * 16 * 3);
    for (size_t i = 0; i < before.size(); ++i) ASSERT_LE(hidden.pixels[i], before[i]);
    before = hidden.pixels;
  }
}

TEST(Corruptions, PixelsAndFog) {
  // 20 x 10 at severity 3: 8 x 4 blocks of the means of 2.5 x 2.5.
  const Image blocks = corrupt(scene(20, 10), Corruption::pixelate, 3, draws());
  std::set<std::vector<uint8_t>> colours;
  for (int64_t y = 0; y < 10; ++y)
    for (int64_t x = 0; x < 20; ++x) colours.insert({blocks.at(x, y), blocks.at(x, y) + 3});
  EXPECT_LE(colours.size(), 32U);
  // Fog keeps the largest level's range, and is over black what the fractal is: from 0 to its whole strength.
  Image half = plain(256, 256, {0, 0, 0});
  std::fill_n(half.at(0, 0), 3, 200);
  const Image fog = corrupt(half, Corruption::fog, 1, draws());
  const auto [low, high] = std::minmax_element(fog.pixels.begin() + 3, fog.pixels.end());
  const double highest = 200.0 / 255;
  EXPECT_EQ(*low, 0);
  EXPECT_NEAR(*high, 1.5 * highest / (highest + 1.5) * 255, 1.01);
}

}  // namespace
}  // namespace dino
