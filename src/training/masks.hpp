// SPDX-License-Identifier: Apache-2.0
#pragma once
// iBOT's block masks (BEiT, arXiv 2106.08254) and DINOv2's stratified assignment of mask ratios to the views
// of a batch.

#include <array>
#include <cstdint>
#include <vector>

#include "base/random.hpp"

namespace dino {

struct MaskConfig {
  double probability = 0.5;  ///< fraction of the views that are masked
  double ratio_min = 0.1, ratio_max = 0.5;
  bool exact_count = true;  ///< top up at random to int(N p); false: may fall short, as the reference
  int64_t min_patches = 4;  ///< of one block
};

struct BlockMaskSettings {
  int64_t grid_h = 16, grid_w = 16;
  int64_t min_patches = 4;
  int64_t max_patches = 128;  ///< the reference's 0.5*img//p*img//p, evaluated left to right
  double min_aspect = 0.3;    ///< log-uniform in [min_aspect, 1/min_aspect]
};
/// The reference's default for an image of `image` pixels and patch p: ((0.5 * image) // p * image) // p.
[[nodiscard]] int64_t default_max_mask_patches(int64_t image, int64_t patch);

struct BlockMaskResult {
  std::vector<uint8_t> mask;  ///< grid_h * grid_w
  int64_t masked = 0;
  std::vector<std::array<int64_t, 2>> blocks;  ///< accepted (h, w)
};
/// Adds blocks until `target` patches are masked or ten tries add nothing.
[[nodiscard]] BlockMaskResult block_mask(const BlockMaskSettings& settings, int64_t target, Random& random);

struct BatchMasks {
  std::vector<uint8_t> masks;  ///< [views, N]
  int64_t upper_bound = 0;     ///< the reference's bound on the number of masked tokens
};
/// Masks of the whole global batch of `views` (= 2 * images over all ranks); a pure function of (seed, step),
/// so each rank slices its own views.
[[nodiscard]] BatchMasks batch_masks(const MaskConfig& config, const BlockMaskSettings& settings,
                                     int64_t views, uint64_t seed, uint64_t step);

}  // namespace dino
