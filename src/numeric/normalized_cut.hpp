// SPDX-License-Identifier: Apache-2.0
#pragma once
// The object of an image as one side of a normalised cut of its patches.

#include <cstdint>
#include <span>
#include <vector>

namespace dino {

struct NormalizedCut {
  std::vector<double> vector;       ///< [patches], of the second smallest eigenvalue; length 1 in D
  std::vector<uint8_t> foreground;  ///< [patches]; 1 on the side of `seed`
  int64_t seed = 0;                 ///< the patch of the largest |vector|
};

/// TokenCut (Wang et al., arXiv 2202.11539): the graph joins patches with weight 1 where their cosine is
/// above `threshold`, else 1e-5; y solves (D - W) y = lambda D y for the second smallest lambda, is cut at
/// its mean, and the side that holds the largest |y| is the object. features [patches, width].
[[nodiscard]] NormalizedCut normalized_cut(std::span<const float> features, int64_t patches,
                                           double threshold = 0.2);

}  // namespace dino
