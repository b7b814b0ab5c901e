// SPDX-License-Identifier: Apache-2.0
#pragma once
// All that is done to a picture to make one crop of it, after every draw. Plain numbers, so that a table of
// them can be copied to a GPU and read there.

#include <cstdint>

namespace dino {

constexpr int kBlurKernel = 9;
constexpr int kColourSteps = 4;

enum class ColourStep : int32_t { none, brightness, contrast, saturation, hue };

struct CropSteps {
  int32_t picture = 0;                               ///< which of several
  int32_t top = 0, left = 0, height = 0, width = 0;  ///< of the box, inside the picture
  int32_t flip = 0;                                  ///< 1: left and right change places
  ColourStep colour[kColourSteps] = {};              ///< in this order
  float factor[kColourSteps] = {};                   ///< of its blend; of hue: what is added modulo 256
  int32_t grayscale = 0;                             ///< 1: done
  float blur[kBlurKernel] = {};                      ///< weights; all 0: none
  int32_t solarize = 0;                              ///< 1: done
};
static_assert(sizeof(CropSteps) == 25 * sizeof(int32_t), "no byte is filling: tables can be hashed");

/// Solarizing turns samples from here on round.
constexpr int kSolarizeThreshold = 128;

}  // namespace dino
