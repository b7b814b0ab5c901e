// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>

#include "imaging/dct.hpp"
#include "imaging/measures.hpp"

namespace dino {
namespace {

constexpr int64_t kMeasureSide = 256;
constexpr int kBorderTolerance = 8;  ///< levels: JPEG noise of a plain border stays below it

/// log2 by repeated squaring in 2.62 fixed point: the C library's may differ between machines in its last
/// bit. 32 fractional bits; n >= 1.
double exact_log2(uint64_t n) {
  const int whole = 63 - std::countl_zero(n);
  uint64_t mantissa = n << (62 - whole);  // [1, 2) as 2.62
  uint64_t fraction = 0;
  for (int bit = 0; bit < 32; ++bit) {
    const uint64_t m = mantissa >> 31;  // 2.31
    mantissa = m * m;                   // 4.62 in [1, 4)
    fraction <<= 1;
    if (mantissa >> 63 != 0) {
      fraction |= 1;
      mantissa >>= 1;
    }
  }
  return whole + static_cast<double>(fraction) / 4294967296.0;
}

float laplacian_variance(const Image& gray) {
  if (gray.width < 3 || gray.height < 3) return 0;
  int64_t sum = 0, squares = 0;
  for (int64_t y = 1; y + 1 < gray.height; ++y) {
    const uint8_t* up = gray.at(0, y - 1);
    const uint8_t* row = gray.at(0, y);
    const uint8_t* down = gray.at(0, y + 1);
    for (int64_t x = 1; x + 1 < gray.width; ++x) {
      const int64_t value = int64_t{up[x]} + down[x] + row[x - 1] + row[x + 1] - 4 * int64_t{row[x]};
      sum += value;
      squares += value * value;
    }
  }
  const auto n = static_cast<double>((gray.width - 2) * (gray.height - 2));
  const double mean = static_cast<double>(sum) / n;
  return static_cast<float>(std::max(0.0, static_cast<double>(squares) / n - mean * mean));
}

bool same_colour(const uint8_t* a, const uint8_t* b) {
  for (int c = 0; c < 3; ++c) {
    if (std::abs(int{a[c]} - int{b[c]}) > kBorderTolerance) return false;
  }
  return true;
}

/// Peels off whole rows and columns that have the colour of the corner where the side begins.
float border_fraction(const Image& image) {
  int64_t left = 0, right = image.width, top = 0, bottom = image.height;
  const auto row_plain = [&](int64_t y, const uint8_t* colour) {
    for (int64_t x = left; x < right; ++x) {
      if (!same_colour(image.at(x, y), colour)) return false;
    }
    return true;
  };
  const auto column_plain = [&](int64_t x, const uint8_t* colour) {
    for (int64_t y = top; y < bottom; ++y) {
      if (!same_colour(image.at(x, y), colour)) return false;
    }
    return true;
  };
  const uint8_t* first = image.at(0, 0);
  const uint8_t* last = image.at(image.width - 1, image.height - 1);
  while (top < bottom && row_plain(top, first)) ++top;
  while (bottom > top && row_plain(bottom - 1, last)) --bottom;
  while (left < right && column_plain(left, first)) ++left;
  while (right > left && column_plain(right - 1, last)) --right;
  const double inner = static_cast<double>(right - left) * static_cast<double>(bottom - top);
  return static_cast<float>(1.0 -
                            inner / (static_cast<double>(image.width) * static_cast<double>(image.height)));
}

}  // namespace

QualityMeasures measure_quality(const Image& image) {
  QualityMeasures measures;
  const int64_t pixels = image.width * image.height;
  if (pixels == 0) return measures;
  const Image gray = imaging::gray_of(image);
  std::array<uint64_t, 256> histogram{};
  for (uint8_t level : gray.pixels) ++histogram[level];
  const auto n = static_cast<double>(pixels);
  double weighted = 0;
  uint64_t sum = 0, squares = 0;
  for (uint64_t level = 0; level < 256; ++level) {
    const uint64_t count = histogram[level];
    if (count > 0) weighted += static_cast<double>(count) * exact_log2(count);
    sum += count * level;
    squares += count * level * level;
  }
  const double mean = static_cast<double>(sum) / n;
  measures.entropy =
      static_cast<float>(std::max(0.0, exact_log2(static_cast<uint64_t>(pixels)) - weighted / n));
  measures.brightness = static_cast<float>(mean);
  measures.contrast =
      static_cast<float>(std::sqrt(std::max(0.0, static_cast<double>(squares) / n - mean * mean)));
  uint64_t spread = 0;
  for (int64_t i = 0; i < pixels; ++i) {
    const uint8_t* p = image.pixels.data() + i * image.channels;
    spread += static_cast<uint64_t>(std::max({p[0], p[1], p[2]}) - std::min({p[0], p[1], p[2]}));
  }
  measures.saturation = static_cast<float>(static_cast<double>(spread) / n);
  measures.border = border_fraction(image);
  const int64_t short_side = std::min(image.width, image.height);
  if (short_side <= kMeasureSide) {
    measures.blur = laplacian_variance(gray);
  } else {
    const auto scaled = [&](int64_t side) { return side * kMeasureSide / short_side; };
    measures.blur =
        laplacian_variance(resize(gray, scaled(image.width), scaled(image.height), Resampling::bilinear));
  }
  return measures;
}

}  // namespace dino
