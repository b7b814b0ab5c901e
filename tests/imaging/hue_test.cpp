// SPDX-License-Identifier: Apache-2.0
// Turning the hue, over all colours: PIL's conversions (Convert.c: rgb2hsv_row, hsv2rgb), operation by
// operation in their types, against the kernels of every instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "imaging/image.hpp"
#include "kernels_here.hpp"

namespace dino {
namespace {

using Colour8 = std::array<uint8_t, 3>;

int clip(int value) {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

Colour8 to_hsv(const Colour8& rgb) {
  const int r = rgb[0], g = rgb[1], b = rgb[2];
  const int high = std::max({r, g, b}), low = std::min({r, g, b});
  if (high == low) return {0, 0, static_cast<uint8_t>(high)};
  const auto range = static_cast<float>(high - low);
  const float s = range / static_cast<float>(high);
  const float rc = static_cast<float>(high - r) / range;
  const float gc = static_cast<float>(high - g) / range;
  const float bc = static_cast<float>(high - b) / range;
  float h = 0;
  if (r == high)
    h = bc - gc;
  else if (g == high)
    h = static_cast<float>(2.0 + static_cast<double>(rc) - static_cast<double>(bc));
  else
    h = static_cast<float>(4.0 + static_cast<double>(gc) - static_cast<double>(rc));
  h = static_cast<float>(std::fmod(static_cast<double>(h) / 6.0 + 1.0, 1.0));
  return {static_cast<uint8_t>(clip(static_cast<int>(static_cast<double>(h) * 255.0))),
          static_cast<uint8_t>(clip(static_cast<int>(static_cast<double>(s) * 255.0))),
          static_cast<uint8_t>(high)};
}

Colour8 to_rgb(const Colour8& hsv) {
  const auto [h, s, v] = hsv;
  if (s == 0) return {v, v, v};
  const double at = static_cast<double>(h) * 6.0 / 255.0;
  const auto i = static_cast<int>(std::floor(at));
  const auto f = static_cast<float>(at - static_cast<double>(static_cast<float>(i)));
  const auto fs = static_cast<float>(static_cast<double>(s) / 255.0);
  const auto level = [v = v](double share) {
    return static_cast<uint8_t>(clip(static_cast<int>(std::round(static_cast<double>(v) * share))));
  };
  const double saturation = static_cast<double>(fs), part = static_cast<double>(f);
  const uint8_t low = level(1.0 - saturation), falling = level(1.0 - saturation * part);
  const uint8_t rising = level(1.0 - saturation * (1.0 - part));
  switch (i % 6) {
    case 0:
      return {v, rising, low};
    case 1:
      return {falling, v, low};
    case 2:
      return {low, v, rising};
    case 3:
      return {low, falling, v};
    case 4:
      return {rising, low, v};
    default:
      return {v, low, falling};
  }
}

constexpr int64_t kSlice = 256 * 256;  // all colours of one red

Image slice_of(int red) {
  Image image{256, 256, 3, {}};
  image.pixels.reserve(3 * kSlice);
  for (int i = 0; i < kSlice; ++i)
    for (const int level : {red, i / 256, i % 256}) image.pixels.push_back(static_cast<uint8_t>(level));
  return image;
}

/// Shifts that take every hue to others.
TEST(Hue, OfAllColoursIsPils) {
#ifdef DINO_SANITIZE
  constexpr int kStep = 17;
#else
  constexpr int kStep = 1;
#endif
  for (int red = 0; red < 256; red += kStep) {
    const Image image = slice_of(red);
    const auto shift = static_cast<uint8_t>(red * 67);
    std::vector<uint8_t> expected;
    expected.reserve(image.pixels.size());
    for (size_t i = 0; i < image.pixels.size(); i += 3) {
      Colour8 hsv = to_hsv({image.pixels[i], image.pixels[i + 1], image.pixels[i + 2]});
      hsv[0] = static_cast<uint8_t>(hsv[0] + shift);
      for (const uint8_t sample : to_rgb(hsv)) expected.push_back(sample);
    }
    for (const auto& [name, kernels] : testing::pixel_kernels_here()) {
      std::vector<uint8_t> turned = image.pixels;
      kernels->turn_hue(turned.data(), kSlice, shift);
      ASSERT_EQ(turned, expected) << name << ", red " << red;
    }
  }
}

}  // namespace
}  // namespace dino
