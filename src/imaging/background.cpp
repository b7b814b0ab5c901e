// SPDX-License-Identifier: Apache-2.0
// What stands behind transparent pixels.
#include <cmath>

#include "imaging/image.hpp"

namespace dino {
namespace {

constexpr double kFlat = 4;  ///< standard deviation, in gray levels, below which nothing is seen

uint8_t over(unsigned alpha, uint8_t colour, uint8_t background) {
  return static_cast<uint8_t>((alpha * colour + (255U - alpha) * background + 127U) / 255U);
}

/// Standard deviation of the gray levels over a gray background.
double contrast_on(const Image& rgba, uint8_t background) {
  uint64_t sum = 0, squares = 0;
  const size_t pixels = static_cast<size_t>(rgba.width * rgba.height);
  for (size_t i = 0; i < pixels; ++i) {
    const uint8_t* p = rgba.pixels.data() + 4 * i;
    const uint64_t gray = (over(p[3], p[0], background) * 19595U + over(p[3], p[1], background) * 38470U +
                           over(p[3], p[2], background) * 7471U + 0x8000U) >>
                          16;
    sum += gray;
    squares += gray * gray;
  }
  const auto n = static_cast<double>(pixels);
  const double mean = static_cast<double>(sum) / n;
  return std::sqrt(std::max(0.0, static_cast<double>(squares) / n - mean * mean));
}

}  // namespace

Colour visible_background(const Image& rgba) {
  if (contrast_on(rgba, 255) >= kFlat) return {255, 255, 255};
  return contrast_on(rgba, 0) >= kFlat ? Colour{0, 0, 0} : Colour{255, 255, 255};
}

Image composite(const Image& image, Colour background) {
  Image out{image.width, image.height, 3, {}};
  const size_t pixels = static_cast<size_t>(image.width * image.height);
  out.pixels.resize(pixels * 3);
  for (size_t i = 0; i < pixels; ++i) {
    const uint8_t* p = image.pixels.data() + 4 * i;
    const unsigned alpha = p[3];
    for (size_t c = 0; c < 3; ++c) {
      out.pixels[3 * i + c] = over(alpha, p[c], background[c]);
    }
  }
  return out;
}

}  // namespace dino
