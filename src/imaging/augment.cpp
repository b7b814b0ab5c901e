// SPDX-License-Identifier: Apache-2.0
#include "imaging/augment.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

namespace dino {
namespace {

constexpr double kBlurSigmaMin = 0.1, kBlurSigmaMax = 2.0;
/// ColorJitter's operations, as their order is drawn.
constexpr std::array kColours = {ColourStep::brightness, ColourStep::contrast, ColourStep::saturation,
                                 ColourStep::hue};

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

Draws draw(int64_t width, int64_t height, CropKind kind, const AugmentConfig& config, Random& random) {
  Draws d;
  const bool local = kind == CropKind::local;
  d.box = random_resized_crop_box(width, height, local ? config.local_scale_min : config.global_scale_min,
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

Image change_colour(Image image, ColourStep step, float factor) {
  switch (step) {
    case ColourStep::none:
      return image;
    case ColourStep::brightness:
      return adjust_brightness(std::move(image), factor);
    case ColourStep::contrast:
      return adjust_contrast(std::move(image), factor);
    case ColourStep::saturation:
      return adjust_saturation(std::move(image), factor);
    case ColourStep::hue:
      return shift_hue(std::move(image), static_cast<uint8_t>(factor));
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

CropSteps draw_crop(int64_t width, int64_t height, CropKind kind, const AugmentConfig& config,
                    Random& random) {
  const Draws d = draw(width, height, kind, config, random);
  CropSteps steps;
  steps.top = static_cast<int32_t>(d.box.top);
  steps.left = static_cast<int32_t>(d.box.left);
  steps.height = static_cast<int32_t>(d.box.height);
  steps.width = static_cast<int32_t>(d.box.width);
  steps.flip = d.flip ? 1 : 0;
  if (d.jitter) {
    const std::array factors = {static_cast<float>(d.brightness), static_cast<float>(d.contrast),
                                static_cast<float>(d.saturation), static_cast<float>(hue_shift(d.hue))};
    for (size_t i = 0; i < d.order.size(); ++i) {
      const auto operation = static_cast<size_t>(d.order[i]);
      steps.colour[i] = kColours[operation];
      steps.factor[i] = factors[operation];
    }
  }
  steps.grayscale = d.grayscale ? 1 : 0;
  if (d.blur) {
    const std::vector<float> weights = gaussian_weights(d.sigma, kBlurKernel);
    std::copy(weights.begin(), weights.end(), steps.blur);
  }
  steps.solarize = d.solarize ? 1 : 0;
  return steps;
}

Image make_crop(ImageView image, const CropSteps& steps, int64_t size, Resampling resampling) {
  Image crop = resize(image, Box{steps.top, steps.left, steps.height, steps.width}, size, size, resampling);
  if (steps.flip != 0) crop = flip_horizontal(std::move(crop));
  for (int i = 0; i < kColourSteps; ++i)
    crop = change_colour(std::move(crop), steps.colour[i], steps.factor[i]);
  if (steps.grayscale != 0) crop = to_grayscale(std::move(crop));
  if (steps.blur[kBlurKernel / 2] > 0) crop = blur(crop, steps.blur);
  if (steps.solarize != 0) crop = solarize(std::move(crop), kSolarizeThreshold);
  return crop;
}

Image augment_crop(const Image& image, CropKind kind, const AugmentConfig& config, Random& random) {
  const int64_t size = kind == CropKind::local ? config.local_size : config.global_size;
  return make_crop(image, draw_crop(image.width, image.height, kind, config, random), size,
                   config.resampling);
}

}  // namespace dino
