// SPDX-License-Identifier: Apache-2.0
// torchvision's colour operations on PIL images. PIL blends in float32 and truncates to 8 bits.
#include <algorithm>
#include <cmath>

#include "imaging/image.hpp"

namespace dino {
namespace {

/// PIL's "L": ITU-R 601-2 luma in 16-bit fixed point.
uint8_t luma(const uint8_t* rgb) {
  return static_cast<uint8_t>((rgb[0] * 19595U + rgb[1] * 38470U + rgb[2] * 7471U + 0x8000U) >> 16);
}

/// PIL's Image.blend(a, b, alpha) for one sample.
uint8_t blend(uint8_t a, uint8_t b, float alpha) {
  const float value = static_cast<float>(a) + alpha * static_cast<float>(int{b} - int{a});
  if (value <= 0.0F) return 0;
  if (value >= 255.0F) return 255;
  return static_cast<uint8_t>(value);
}

/// Blends towards one gray level, the same for all pixels: a table does it.
Image blend_with_level(const Image& image, uint8_t level, double factor) {
  std::array<uint8_t, 256> table{};
  for (int i = 0; i < 256; ++i) {
    table[static_cast<size_t>(i)] = blend(level, static_cast<uint8_t>(i), static_cast<float>(factor));
  }
  Image out = image;
  for (uint8_t& p : out.pixels) p = table[p];
  return out;
}

uint8_t clip(double value) {
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

/// Rounds a level in [0, 255], halves up.
uint8_t round_level(double value) {
  return static_cast<uint8_t>(value + 0.5);
}

/// PIL's 8-bit RGB -> HSV.
void rgb_to_hsv(const uint8_t* rgb, uint8_t* hsv) {
  const uint8_t high = std::max({rgb[0], rgb[1], rgb[2]}), low = std::min({rgb[0], rgb[1], rgb[2]});
  hsv[2] = high;
  if (high == low) {
    hsv[0] = hsv[1] = 0;
    return;
  }
  const auto range = static_cast<float>(high - low);
  const float s = range / static_cast<float>(high);
  const float rc = static_cast<float>(high - rgb[0]) / range;
  const float gc = static_cast<float>(high - rgb[1]) / range;
  const float bc = static_cast<float>(high - rgb[2]) / range;
  float h = 0;
  if (rgb[0] == high) {
    h = bc - gc;
  } else if (rgb[1] == high) {
    h = static_cast<float>(2.0 + static_cast<double>(rc) - static_cast<double>(bc));
  } else {
    h = static_cast<float>(4.0 + static_cast<double>(gc) - static_cast<double>(rc));
  }
  // fmod(h / 6 + 1, 1): the argument lies in [5/6, 11/6).
  const double turn = static_cast<double>(h) / 6.0 + 1.0;
  h = static_cast<float>(turn >= 1.0 ? turn - 1.0 : turn);
  hsv[0] = clip(static_cast<double>(h) * 255.0);
  hsv[1] = clip(static_cast<double>(s) * 255.0);
}

/// PIL's 8-bit HSV -> RGB.
void hsv_to_rgb(const uint8_t* hsv, uint8_t* rgb) {
  const uint8_t v = hsv[2];
  if (hsv[1] == 0) {
    rgb[0] = rgb[1] = rgb[2] = v;
    return;
  }
  const double sector = static_cast<double>(hsv[0]) * 6.0 / 255.0;
  const int i = static_cast<int>(sector);
  const double f = static_cast<float>(sector - static_cast<double>(static_cast<float>(i)));
  const double s = static_cast<float>(static_cast<double>(hsv[1]) / 255.0);
  const double value = v;
  const uint8_t p = round_level(value * (1.0 - s));
  const uint8_t q = round_level(value * (1.0 - s * f));
  const uint8_t t = round_level(value * (1.0 - s * (1.0 - f)));
  const std::array<std::array<uint8_t, 3>, 6> sectors = {
      {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}}};
  std::copy_n(sectors[static_cast<size_t>(i % 6)].begin(), 3, rgb);
}

/// Index of a sample beyond the border, mirrored without repeating the edge; any distance.
int64_t mirrored(int64_t i, int64_t n) {
  if (n == 1) return 0;
  const int64_t period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < n ? i : period - i;
}

}  // namespace

Image adjust_brightness(const Image& image, double factor) {
  return blend_with_level(image, 0, factor);
}

Image adjust_contrast(const Image& image, double factor) {
  int64_t sum = 0;
  const int64_t pixels = image.width * image.height;
  for (int64_t i = 0; i < pixels; ++i) sum += luma(image.pixels.data() + 3 * i);
  const double mean = static_cast<double>(sum) / static_cast<double>(pixels);
  return blend_with_level(image, static_cast<uint8_t>(mean + 0.5), factor);
}

Image adjust_saturation(const Image& image, double factor) {
  Image out = image;
  for (size_t i = 0; i + 2 < out.pixels.size(); i += 3) {
    uint8_t* p = out.pixels.data() + i;
    const uint8_t gray = luma(p);
    for (int c = 0; c < 3; ++c) p[c] = blend(gray, p[c], static_cast<float>(factor));
  }
  return out;
}

Image adjust_hue(const Image& image, double factor) {
  // Truncated toward zero, then added modulo 256.
  const auto shift = static_cast<uint8_t>(static_cast<int>(factor * 255.0));
  Image out = image;
  for (size_t i = 0; i + 2 < out.pixels.size(); i += 3) {
    uint8_t hsv[3];
    rgb_to_hsv(out.pixels.data() + i, hsv);
    hsv[0] = static_cast<uint8_t>(hsv[0] + shift);
    hsv_to_rgb(hsv, out.pixels.data() + i);
  }
  return out;
}

Image to_grayscale(const Image& image) {
  Image out = image;
  for (size_t i = 0; i + 2 < out.pixels.size(); i += 3) {
    const uint8_t gray = luma(out.pixels.data() + i);
    std::fill_n(out.pixels.begin() + static_cast<std::ptrdiff_t>(i), 3, gray);
  }
  return out;
}

Image solarize(const Image& image, int threshold) {
  Image out = image;
  for (uint8_t& p : out.pixels) {
    if (p >= threshold) p = static_cast<uint8_t>(255 - p);
  }
  return out;
}

Image gaussian_blur(const Image& image, double sigma, int kernel) {
  DINO_CHECK(kernel % 2 == 1 && sigma > 0, "kernel");
  const int64_t half = kernel / 2;
  std::vector<float> weights(static_cast<size_t>(kernel));
  double sum = 0;
  for (int64_t i = -half; i <= half; ++i) {
    const double z = static_cast<double>(i) / sigma;
    sum += std::exp(-0.5 * z * z);
  }
  for (int64_t i = -half; i <= half; ++i) {
    const double z = static_cast<double>(i) / sigma;
    weights[static_cast<size_t>(i + half)] = static_cast<float>(std::exp(-0.5 * z * z) / sum);
  }
  const int64_t row = image.width * image.channels;
  // Vertical first, so that one padded row of floats is all the horizontal pass needs.
  std::vector<float> column(static_cast<size_t>(row));
  std::vector<float> padded(static_cast<size_t>(row + 2 * half * image.channels));
  Image out = image;
  for (int64_t y = 0; y < image.height; ++y) {
    std::fill(column.begin(), column.end(), 0.0F);
    for (int64_t k = -half; k <= half; ++k) {
      const uint8_t* source = image.at(0, mirrored(y + k, image.height));
      const float w = weights[static_cast<size_t>(k + half)];
      for (size_t x = 0; x < column.size(); ++x) column[x] += w * static_cast<float>(source[x]);
    }
    for (int64_t x = -half; x < image.width + half; ++x) {
      const float* source = column.data() + mirrored(x, image.width) * image.channels;
      std::copy_n(source, image.channels, padded.data() + (x + half) * image.channels);
    }
    std::fill(column.begin(), column.end(), 0.0F);
    for (int64_t k = 0; k < kernel; ++k) {
      const float* source = padded.data() + k * image.channels;
      const float w = weights[static_cast<size_t>(k)];
      for (size_t x = 0; x < column.size(); ++x) column[x] += w * source[x];
    }
    uint8_t* target = out.at(0, y);
    for (size_t x = 0; x < column.size(); ++x) {
      // A convex sum of levels; halves go to the even number.
      target[x] = static_cast<uint8_t>(std::clamp(std::lrint(column[x]), 0L, 255L));
    }
  }
  return out;
}

void normalize_to(const Image& image, const Normalisation& normalisation, float* out) {
  const int64_t pixels = image.width * image.height;
  for (size_t c = 0; c < 3; ++c) {
    std::array<float, 256> table{};
    for (size_t i = 0; i < 256; ++i) {
      table[i] = (static_cast<float>(i) / 255.0F - normalisation.mean[c]) / normalisation.std[c];
    }
    float* plane = out + static_cast<int64_t>(c) * pixels;
    const uint8_t* source = image.pixels.data() + c;
    for (int64_t i = 0; i < pixels; ++i) plane[i] = table[source[i * image.channels]];
  }
}

}  // namespace dino
