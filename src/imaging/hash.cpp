// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "imaging/dct.hpp"
#include "imaging/measures.hpp"

namespace dino {
namespace imaging {

const std::array<std::array<int32_t, kDctSide>, kDctSide>& dct_table() {
  static const auto table = [] {
    // cos(pi/64) by halving the angle from cos(pi/2) = 0, then cos(k t) = 2 cos(t) cos((k-1) t) - cos((k-2)
    // t).
    double base = 0;
    for (int i = 0; i < 5; ++i) base = std::sqrt((1.0 + base) / 2.0);
    std::array<double, 128> cosine{};
    cosine[0] = 1;
    cosine[1] = base;
    for (size_t k = 2; k < cosine.size(); ++k) cosine[k] = 2.0 * base * cosine[k - 1] - cosine[k - 2];
    std::array<std::array<int32_t, kDctSide>, kDctSide> t{};
    for (size_t u = 0; u < kDctSide; ++u) {
      for (size_t x = 0; x < kDctSide; ++x) {
        t[u][x] = static_cast<int32_t>(std::nearbyint(16384.0 * cosine[(2 * x + 1) * u % 128]));
      }
    }
    return t;
  }();
  return table;
}

Image gray_of(const Image& image) {
  Image out{image.width, image.height, 1, {}};
  const size_t pixels = static_cast<size_t>(image.width * image.height);
  out.pixels.resize(pixels);
  const uint8_t* p = image.pixels.data();
  for (size_t i = 0; i < pixels; ++i, p += image.channels) {
    out.pixels[i] = static_cast<uint8_t>((p[0] * 19595U + p[1] * 38470U + p[2] * 7471U + 0x8000U) >> 16);
  }
  return out;
}

void dct_low(const std::array<int32_t, kDctSide * kDctSide>& plane, int64_t n, int64_t* out) {
  const auto& table = dct_table();
  int64_t sum = 0;
  for (int32_t value : plane) sum += value;
  // Values are multiplied by the 1024 pixels, so that the mean is an integer.
  std::array<int64_t, kDctSide * kDctSide> rows{};  // [y][u]
  for (int64_t y = 0; y < kDctSide; ++y) {
    for (int64_t u = 0; u < n; ++u) {
      int64_t total = 0;
      for (int64_t x = 0; x < kDctSide; ++x) {
        const int64_t centred = plane[static_cast<size_t>(y * kDctSide + x)] * int64_t{1024} - sum;
        total += centred * table[static_cast<size_t>(u)][static_cast<size_t>(x)];
      }
      rows[static_cast<size_t>(y * kDctSide + u)] = total >> 14;
    }
  }
  for (int64_t v = 0; v < n; ++v) {
    for (int64_t u = 0; u < n; ++u) {
      int64_t total = 0;
      for (int64_t y = 0; y < kDctSide; ++y) {
        total += rows[static_cast<size_t>(y * kDctSide + u)] *
                 table[static_cast<size_t>(v)][static_cast<size_t>(y)];
      }
      out[v * n + u] = total;
    }
  }
}

}  // namespace imaging

uint64_t perceptual_hash(const Image& image) {
  const Image small =
      resize(imaging::gray_of(image), imaging::kDctSide, imaging::kDctSide, Resampling::bilinear);
  std::array<int32_t, imaging::kDctSide * imaging::kDctSide> plane{};
  std::copy(small.pixels.begin(), small.pixels.end(), plane.begin());
  std::array<int64_t, 81> low{};
  imaging::dct_low(plane, 9, low.data());
  // Frequencies 1..8 in both directions: the mean and the pure row and column waves stay out.
  std::array<int64_t, 64> values{};
  for (size_t v = 0; v < 8; ++v) {
    for (size_t u = 0; u < 8; ++u) values[v * 8 + u] = low[(v + 1) * 9 + u + 1];
  }
  std::array<int64_t, 64> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const int64_t twice_median = sorted[31] + sorted[32];
  uint64_t hash = 0;
  for (size_t i = 0; i < 64; ++i) {
    if (2 * values[i] > twice_median) hash |= uint64_t{1} << i;
  }
  return hash;
}

}  // namespace dino
