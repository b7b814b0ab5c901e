// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "imaging/image.hpp"

namespace dino {

/// Mean and standard deviation that the weights of a reference were trained with: `mean` and `std` of the
/// run's config.ini, image_mean and image_std of a Hugging Face preprocessor_config.json, those of timm's
/// config.json, else ImageNet's. DataError where a file asks for a preparation that is not done here.
[[nodiscard]] Normalisation normalisation_of(const std::string& weights);

}  // namespace dino
