// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the backends' KoLeo share: the term of one anchor at distance d from its neighbour.

#include <algorithm>
#include <cmath>

namespace dino::ops {

/// Added to each component of the difference, and again to the distance, as torch.nn.PairwiseDistance and the
/// reference do.
constexpr float kKoleoEps = 1e-8F;
/// Unit rows in f32 are told apart no further than this. Class tokens that saw no image (stochastic depth
/// left out all attention, or LayerScale is tiny) are equal but for rounding; 1 / distance would turn that
/// into a gradient of any size and direction, other ones on other numbers of ranks.
constexpr double kKoleoResolution = 1e-6;

inline double koleo_loss(double d) {
  return -std::log(std::max(d, kKoleoResolution) + static_cast<double>(kKoleoEps));
}
/// The gradient with respect to the anchor is this times the difference, with respect to the neighbour its
/// negative.
inline double koleo_slope(double d) {
  return -1 / ((d + static_cast<double>(kKoleoEps)) * d);
}

}  // namespace dino::ops
