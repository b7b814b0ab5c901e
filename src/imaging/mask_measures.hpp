// SPDX-License-Identifier: Apache-2.0
#pragma once
// Binary masks [height, width], 0 = background: how well one matches another, their parts and boxes.

#include <cstdint>
#include <span>
#include <vector>

#include "imaging/image.hpp"

namespace dino {

struct MaskView {
  std::span<const uint8_t> pixels;  ///< [height * width]
  int64_t width = 0, height = 0;
  [[nodiscard]] bool at(int64_t x, int64_t y) const {
    return pixels[static_cast<size_t>(y * width + x)] != 0;
  }
};

/// J: intersection over union; 1 where both are empty (Perazzi et al., CVPR 2016).
[[nodiscard]] double region_similarity(MaskView predicted, MaskView truth);

/// F: harmonic mean of the shares of each boundary that lie within `tolerance` x diagonal (rounded up, a
/// disk) of the other's; the boundary is where a pixel differs from its right, lower or lower right
/// neighbour. 1 where neither has a boundary, 0 where one has none.
[[nodiscard]] double boundary_accuracy(MaskView predicted, MaskView truth, double tolerance = 0.008);

/// The pixels that are connected to (x, y) over edges, that one included; none where it is background.
[[nodiscard]] std::vector<uint8_t> connected_part(MaskView mask, int64_t x, int64_t y);

/// The smallest box around the foreground; of size 0 where there is none.
[[nodiscard]] Box bounding_box(MaskView mask);

/// Intersection over union of two boxes; 0 where both are empty.
[[nodiscard]] double box_overlap(const Box& a, const Box& b);

/// The share of each cell of a grid x grid partition that is foreground, [grid * grid]. The sides must be
/// multiples of `grid`.
[[nodiscard]] std::vector<double> cell_shares(MaskView mask, int64_t grid);

}  // namespace dino
