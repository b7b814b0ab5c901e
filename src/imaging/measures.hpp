// SPDX-License-Identifier: Apache-2.0
#pragma once
// Quality measures and perceptual hashes. All are deterministic functions of the decoded pixels.

#include <cstdint>
#include <vector>

#include "imaging/image.hpp"

namespace dino {

struct QualityMeasures {
  float blur =
      0;  ///< variance of the 3x3 Laplacian of the gray image, reduced to short side 256 where larger
  float entropy = 0;     ///< Shannon entropy of the 256-bin gray histogram, bits (0..8)
  float brightness = 0;  ///< mean gray, 0..255
  float contrast = 0;    ///< standard deviation of gray
  float saturation = 0;  ///< mean of (max - min) over channels
  float border = 0;      ///< fraction of the area in constant-colour borders
};
[[nodiscard]] QualityMeasures measure_quality(const Image& image);

/// 64-bit DCT hash (Zauner 2010): 32x32 gray, 8x8 low frequencies without the mean, compared with their
/// median.
[[nodiscard]] uint64_t perceptual_hash(const Image& image);

/// Training-free copy descriptor, L2-normalised float32[kCopyDescriptorSize]: whitened low frequencies of
/// gray and colour, gradient orientations over a grid, a colour histogram; each block power-normalised. The
/// same bytes on every machine. `image` has three channels.
constexpr int64_t kCopyDescriptorSize = 512;
void copy_descriptor(const Image& image, float* out);

}  // namespace dino
