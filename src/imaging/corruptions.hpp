// SPDX-License-Identifier: Apache-2.0
#pragma once
// Pictures spoilt on purpose, in five degrees: what an encoder is to be robust against. Kinds and degrees are
// those of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261) for its pictures of 224 x 224, but for the
// last two; its snow, frost, spatter and elastic transform are not here.

#include <cstdint>

#include "base/names.hpp"
#include "base/random.hpp"
#include "imaging/image.hpp"

namespace dino {

/// Part of the key of draws: numbers are never reused.
enum class Corruption : uint8_t {
  gaussian_noise = 0,  ///< deviation .08 to .38 of full scale
  shot_noise = 1,      ///< Poisson counts of 60 to 3 photons at full scale
  impulse_noise = 2,   ///< 3 to 27 % of samples black or full
  speckle_noise = 3,   ///< noise in proportion to the level, .15 to .6
  defocus_blur = 4,    ///< a disk of radius 3 to 10
  glass_blur = 5,      ///< pixels change places with near ones
  gaussian_blur = 6,   ///< deviation 1 to 6 pixels
  motion_blur = 7,     ///< along a drawn direction within 45 degrees of level
  zoom_blur = 8,       ///< mean over enlargements up to 1.1 to 1.3
  fog = 9,             ///< a plasma fractal over the picture
  brightness = 10,     ///< value (of hue, saturation, value) + .1 to .5
  contrast = 11,       ///< distance from the mean x .4 to .05
  saturate = 12,       ///< saturation x .3, .1, 2, 5, 20
  pixelate = 13,       ///< reduced to .6 to .25 of its side and back, by boxes
  jpeg = 14,           ///< quality 25 to 7
  /// Reduced to 1/2, 1/3, 1/4, 1/6, 1/8 of its side and back, bicubic: what a small original looks like.
  resolution = 15,
  /// 10, 30, 50, 70, 90 % of the cells of a 14 x 14 grid black, each degree's within the next one's (the
  /// random drop of patches of Naseer et al., arXiv 2105.10497).
  occlusion = 16,
};
constexpr auto names_of(Corruption) {
  return std::to_array<Named<Corruption>>({{"gaussian-noise", Corruption::gaussian_noise},
                                           {"shot-noise", Corruption::shot_noise},
                                           {"impulse-noise", Corruption::impulse_noise},
                                           {"speckle-noise", Corruption::speckle_noise},
                                           {"defocus-blur", Corruption::defocus_blur},
                                           {"glass-blur", Corruption::glass_blur},
                                           {"gaussian-blur", Corruption::gaussian_blur},
                                           {"motion-blur", Corruption::motion_blur},
                                           {"zoom-blur", Corruption::zoom_blur},
                                           {"fog", Corruption::fog},
                                           {"brightness", Corruption::brightness},
                                           {"contrast", Corruption::contrast},
                                           {"saturate", Corruption::saturate},
                                           {"pixelate", Corruption::pixelate},
                                           {"jpeg", Corruption::jpeg},
                                           {"resolution", Corruption::resolution},
                                           {"occlusion", Corruption::occlusion}});
}

constexpr int kSeverities = 5;

/// `image` RGB; severity 1..5; the same size comes back. Sizes in pixels are as above whatever the picture's
/// size. The five degrees take the same draws, so that they differ in strength alone.
[[nodiscard]] Image corrupt(const Image& image, Corruption kind, int severity, Random random);

}  // namespace dino
