// SPDX-License-Identifier: Apache-2.0
#pragma once
// How images were prepared for a model: what a weights reference says of it in the files beside the tensors.

#include <cstdint>
#include <optional>
#include <string>

#include "imaging/decode_options.hpp"

namespace dino {

struct VitConfig;

/// What is told has a value; what is not told is 0 or empty, and ImageNet's mean and deviation.
struct Preparation {
  int64_t size = 0;                      ///< side of the square input in pixels
  int64_t resize = 0;                    ///< shorter side before the central crop
  std::optional<bool> pad;               ///< padded to a square instead of cropped
  std::optional<Background> background;  ///< behind transparent pixels and padding
  Normalisation normalisation;
  std::string source;  ///< the file that told; empty = none did
};

/// From global-size, pad, background, mean and std of a run's config.ini; from crop_size, size, image_mean
/// and image_std of a Hugging Face preprocessor_config.json; from input_size, crop_pct, mean and std of
/// timm's config.json; from preprocess_cfg of an
/// open_clip_config.json. DataError where a file asks for a preparation that is not done here.
[[nodiscard]] Preparation preparation_of(const std::string& weights);
/// The same of weights that were read: a CLIP's image tower whose files say nothing takes pictures of its own
/// size with CLIP's mean and deviation.
[[nodiscard]] Preparation preparation_of(const std::string& weights, const VitConfig& config);

}  // namespace dino
