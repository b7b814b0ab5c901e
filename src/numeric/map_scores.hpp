// SPDX-License-Identifier: Apache-2.0
#pragma once
// How well a coarse map of scores tells the pixels of an object from those of its background. A cell of the
// map stands for all pixels below it, which are counted: [cells] pixels of the object, [cells] of the
// background.

#include <cstdint>
#include <span>

namespace dino {

/// Area under the ROC curve over pixels (the chance that a pixel of the object scores above one of the
/// background, ties count half). NaN where there are no pixels of one kind.
[[nodiscard]] double map_auroc(std::span<const float> scores, std::span<const int64_t> object,
                               std::span<const int64_t> background);

/// Intersection over union of the object and the cells of highest score that hold together `mass` of the sum
/// of scores (>= 0): how attention is held against masks in DINO (arXiv 2104.14294, figure 4, mass 0.6).
/// Equal scores: the smaller index first. 0 where both are empty.
[[nodiscard]] double map_iou(std::span<const float> scores, std::span<const int64_t> object,
                             std::span<const int64_t> background, double mass);

}  // namespace dino
