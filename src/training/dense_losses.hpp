// SPDX-License-Identifier: Apache-2.0
#pragma once
// Losses over pixels, for heads on frozen features.

#include <cstdint>
#include <span>

#include "model/map_layers.hpp"

namespace dino {

/// Mean cross-entropy over the pixels that count, of logits that are enlarged to the labels' size (bilinear,
/// areas coincide). labels [images, size]: classes, or negative where a pixel does not count; on the host.
/// d_logits (of the logits' shape) receives the gradient. 0, and a gradient of 0, where no pixel counts.
[[nodiscard]] double pixel_cross_entropy(const Context& c, const Maps& logits, GridSize size,
                                         std::span<const int16_t> labels, const Maps& d_logits);

/// The class of the largest enlarged logit, the first among equals: labels [images, size] on the host.
void pixel_classes(const Context& c, const Maps& logits, GridSize size, std::span<int16_t> labels);

struct DepthLossWeights {
  double scale_invariant = 1, gradient = 0.5;
  bool warm_up = false;  ///< the first steps: only the mean of the log error (DINOv2: 100 of them)
};
/// With g = ln(d + 1e-3) - ln(t + 1e-3) over the valid pixels of all images,
///   scale-invariant loss (Eigen et al., arXiv 1406.2283, in the form of arXiv 1907.10326):
///     sqrt(var(g) + 0.15 mean(g)^2), with the unbiased variance; while warming up sqrt(0.15 mean(g)^2);
///   gradient loss (arXiv 1804.00607): at strides 1, 2, 4 and 6, the sum over pairs of valid pixels two
///   apart,
///     across and down, of |g - g'|, over the number of valid pixels at that stride.
/// predicted, truth [images, size], metres; truth 0 where it is not known. `gradient` (=) with respect to
/// predicted. 0 where no pixel is valid.
[[nodiscard]] double depth_loss(std::span<const float> predicted, std::span<const float> truth,
                                int64_t images, GridSize size, const DepthLossWeights& weights,
                                std::span<float> gradient);

}  // namespace dino
