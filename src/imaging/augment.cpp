// SPDX-License-Identifier: Apache-2.0
#include "imaging/augment.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

namespace dino {
namespace {

constexpr int kBlurKernel = 9;
constexpr double kBlurSigmaMin = 0.1, kBlurSigmaMax = 2.0;

/// All draws of one crop, made in this order whether or not they are used, so that switching one operation
/// off leaves the others as they were.
struct Draws {
  Box box;
  bool flip = false, jitter = false, grayscale = false, blur = false, solarize = false;
  std::array<int, 4> order{};  ///< of brightness, contrast, saturation, hue
  double brightness = 1, contrast = 1, saturation = 1, hue = 0, sigma = 1;
};

double blur_probability(CropKind kind, BlurSetting setting) {
  const bool paper = setting == BlurSetting::paper;
  switch (kind) {
    case CropKind::global1:
      return paper ? 1.0 : 0.0;
    case CropKind::global2:
      return paper ? 0.1 : 0.9;
    case CropKind::local:
      return 0.5;
  }
  return 0.5;
}

/// ColorJitter's factor range: [max(0, 1 - strength), 1 + strength].
double draw_factor(Random& random, double strength) {
  return random.uniform(std::max(0.0, 1.0 - strength), 1.0 + strength);
}

Draws draw(const Image& image, CropKind kind, const AugmentConfig& config, Random& random) {
  Draws d;
  const bool local = kind == CropKind::local;
  d.box = random_resized_crop_box(image.width, image.height,
                                  local ? config.local_scale_min : config.global_scale_min,
                                  local ? config.local_scale_max : config.global_scale_max, random);
  d.flip = random.bernoulli(config.flip);
  d.jitter = random.bernoulli(config.jitter);
  std::iota(d.order.begin(), d.order.end(), 0);
  for (size_t i = 3; i > 0; --i) std::swap(d.order[i], d.order[random.below(i + 1)]);
  d.brightness = draw_factor(random, config.brightness);
  d.contrast = draw_factor(random, config.contrast);
  d.saturation = draw_factor(random, config.saturation);
  d.hue = random.uniform(-config.hue, config.hue);
  d.grayscale = random.bernoulli(config.grayscale);
  d.blur = random.bernoulli(blur_probability(kind, config.blur)) && config.blur != BlurSetting::off;
  d.sigma = random.uniform(kBlurSigmaMin, kBlurSigmaMax);
  d.solarize = random.bernoulli(config.solarize) && kind == CropKind::global2;
  return d;
}

Image jitter(Image image, const Draws& d) {
  for (int operation : d.order) {
    switch (operation) {
      case 0:
        image = adjust_brightness(std::move(image), d.brightness);
        break;
      case 1:
        image = adjust_contrast(std::move(image), d.contrast);
        break;
      case 2:
        image = adjust_saturation(std::move(image), d.saturation);
        break;
      default:
        image = adjust_hue(std::move(image), d.hue);
    }
  }
  return image;
}

}  // namespace

Box random_resized_crop_box(int64_t width, int64_t height, double scale_min, double scale_max,
                            Random& random) {
  constexpr double kLow = 3.0 / 4.0, kHigh = 4.0 / 3.0;
  const auto area = static_cast<double>(width * height);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * random.uniform(scale_min, scale_max);
    const double aspect = std::exp(random.uniform(std::log(kLow), std::log(kHigh)));
    const auto w = static_cast<int64_t>(std::nearbyint(std::sqrt(target * aspect)));
    const auto h = static_cast<int64_t>(std::nearbyint(std::sqrt(target / aspect)));
    if (w <= 0 || w > width || h <= 0 || h > height) continue;
    const auto top = static_cast<int64_t>(random.below(static_cast<uint64_t>(height - h + 1)));
    const auto left = static_cast<int64_t>(random.below(static_cast<uint64_t>(width - w + 1)));
    return {top, left, h, w};
  }
  int64_t w = width, h = height;
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  if (ratio < kLow) {
    h = std::clamp<int64_t>(static_cast<int64_t>(std::nearbyint(static_cast<double>(w) / kLow)), 1, height);
  } else if (ratio > kHigh) {
    w = std::clamp<int64_t>(static_cast<int64_t>(std::nearbyint(static_cast<double>(h) * kHigh)), 1, width);
  }
  return {(height - h) / 2, (width - w) / 2, h, w};
}

Image augment_crop(const Image& image, CropKind kind, const AugmentConfig& config, Random& random) {
  const Draws d = draw(image, kind, config, random);
  const int64_t size = kind == CropKind::local ? config.local_size : config.global_size;
  Image crop = resize(image, d.box, size, size, config.resampling);
  if (d.flip) crop = flip_horizontal(std::move(crop));
  if (d.jitter) crop = jitter(std::move(crop), d);
  if (d.grayscale) crop = to_grayscale(std::move(crop));
  if (d.blur) crop = gaussian_blur(crop, d.sigma, kBlurKernel);
  if (d.solarize) crop = solarize(std::move(crop));
  return crop;
}

}  // namespace dino
