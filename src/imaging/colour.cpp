// SPDX-License-Identifier: Apache-2.0
// torchvision's colour operations on PIL images. PIL blends in float32 and truncates to 8 bits.
#include <algorithm>
#include <cmath>
#include <utility>

#include "imaging/image.hpp"
#include "imaging/pixel_kernels.hpp"

namespace dino {
namespace {

using imaging::pixel_kernels;

int64_t samples_of(const Image& image) {
  return static_cast<int64_t>(image.pixels.size());
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

Image adjust_brightness(Image image, double factor) {
  pixel_kernels().blend_with_level(image.pixels.data(), samples_of(image), 0, static_cast<float>(factor));
  return image;
}

Image adjust_contrast(Image image, double factor) {
  const int64_t pixels = image.width * image.height;
  const int64_t sum = pixel_kernels().sum_of_luma(image.pixels.data(), pixels);
  const double mean = static_cast<double>(sum) / static_cast<double>(pixels);
  pixel_kernels().blend_with_level(image.pixels.data(), samples_of(image), static_cast<uint8_t>(mean + 0.5),
                                   static_cast<float>(factor));
  return image;
}

Image adjust_saturation(Image image, double factor) {
  pixel_kernels().saturate(image.pixels.data(), image.width * image.height, static_cast<float>(factor));
  return image;
}

uint8_t hue_shift(double factor) {
  // Truncated toward zero, then added modulo 256.
  return static_cast<uint8_t>(static_cast<int>(factor * 255.0));
}

Image adjust_hue(Image image, double factor) {
  return shift_hue(std::move(image), hue_shift(factor));
}

Image shift_hue(Image image, uint8_t shift) {
  pixel_kernels().turn_hue(image.pixels.data(), image.width * image.height, shift);
  return image;
}

Image to_grayscale(Image image) {
  pixel_kernels().turn_gray(image.pixels.data(), image.width * image.height);
  return image;
}

Image solarize(Image image, int threshold) {
  pixel_kernels().solarize(image.pixels.data(), samples_of(image), threshold);
  return image;
}

std::vector<float> gaussian_weights(double sigma, int kernel) {
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
  return weights;
}

Image gaussian_blur(const Image& image, double sigma, int kernel) {
  return blur(image, gaussian_weights(sigma, kernel));
}

Image blur(const Image& image, std::span<const float> weights) {
  const auto kernel = static_cast<int64_t>(weights.size());
  DINO_CHECK(kernel % 2 == 1, "kernel");
  const int64_t half = kernel / 2;
  const int64_t row = image.width * image.channels;
  // Vertical first, so that one padded row of floats is all the horizontal pass needs.
  std::vector<float> padded(static_cast<size_t>(row + 2 * half * image.channels));
  Image out = image;
  std::vector<float> levels(image.pixels.size());
  pixel_kernels().to_floats(image.pixels.data(), samples_of(image), levels.data());
  std::vector<const float*> sources(static_cast<size_t>(kernel));
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t k = -half; k <= half; ++k)
      sources[static_cast<size_t>(k + half)] = levels.data() + mirrored(y + k, image.height) * row;
    // Where the row lies in the padded one; what is left and right of it follows.
    float* inner = padded.data() + half * image.channels;
    pixel_kernels().blur_rows(sources.data(), weights.data(), kernel, row, inner);
    for (int64_t x = 1; x <= half; ++x) {
      std::copy_n(inner + mirrored(-x, image.width) * image.channels, image.channels,
                  inner - x * image.channels);
      const int64_t right = image.width - 1 + x;
      std::copy_n(inner + mirrored(right, image.width) * image.channels, image.channels,
                  inner + right * image.channels);
    }
    pixel_kernels().blur_columns(padded.data(), weights.data(), kernel, image.channels, row, out.at(0, y));
  }
  return out;
}

void normalize_to(const Image& image, const Normalisation& normalisation, float* out) {
  const int64_t pixels = image.width * image.height;
  for (size_t c = 0; c < 3; ++c)
    pixel_kernels().normalise(image.pixels.data() + c, image.channels, pixels, normalisation.mean[c],
                              normalisation.std[c], out + static_cast<int64_t>(c) * pixels);
}

}  // namespace dino
