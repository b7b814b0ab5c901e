// SPDX-License-Identifier: Apache-2.0
#pragma once
// DINOv2's multi-crop augmentation (arXiv 2304.07193, App. B.2; torchvision's RandomResizedCrop, ColorJitter,
// ... on PIL images).

#include "base/names.hpp"
#include "imaging/crop_steps.hpp"
#include "imaging/image.hpp"

namespace dino {

enum class BlurSetting : uint8_t {
  paper,      ///< probabilities 1.0 / 0.1 / 0.5 for global 1, global 2, locals
  reference,  ///< the released code's inverted ones: 0 / 0.9 / 0.5
  off,
};
constexpr auto names_of(BlurSetting) {
  return std::to_array<Named<BlurSetting>>(
      {{"paper", BlurSetting::paper}, {"reference", BlurSetting::reference}, {"off", BlurSetting::off}});
}

constexpr auto names_of(Resampling) {
  return std::to_array<Named<Resampling>>(
      {{"bicubic", Resampling::bicubic}, {"bilinear", Resampling::bilinear}, {"box", Resampling::box}});
}

struct AugmentConfig {
  int64_t global_size = 224, local_size = 98, local_count = 8;
  double global_scale_min = 0.32, global_scale_max = 1.0;
  double local_scale_min = 0.05, local_scale_max = 0.32;
  Resampling resampling = Resampling::bicubic;  ///< of the crops
  double flip = 0.5;
  double jitter = 0.8, brightness = 0.4, contrast = 0.4, saturation = 0.2, hue = 0.1;
  double grayscale = 0.2;
  double solarize = 0.2;  ///< second global crop only
  BlurSetting blur = BlurSetting::paper;
  Normalisation normalisation;
};

enum class CropKind : uint8_t { global1, global2, local };

/// One crop of an image of that size: every draw comes from `random`, in a fixed order.
[[nodiscard]] CropSteps draw_crop(int64_t width, int64_t height, CropKind kind, const AugmentConfig& config,
                                  Random& random);
/// Makes it, size x size; `image` is the picture.
[[nodiscard]] Image make_crop(ImageView image, const CropSteps& steps, int64_t size, Resampling resampling);
/// Both.
[[nodiscard]] Image augment_crop(const Image& image, CropKind kind, const AugmentConfig& config,
                                 Random& random);

/// RandomResizedCrop's box: 10 tries, then the central fallback.
[[nodiscard]] Box random_resized_crop_box(int64_t width, int64_t height, double scale_min, double scale_max,
                                          Random& random);

}  // namespace dino
