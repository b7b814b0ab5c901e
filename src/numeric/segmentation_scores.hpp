// SPDX-License-Identifier: Apache-2.0
#pragma once
// How well label maps agree: mIoU, mAcc and aAcc, from how many pixels of each class there are.

#include <cstdint>
#include <span>
#include <vector>

#include "numeric/statistics.hpp"

namespace dino {

/// confusion[t * classes + p] += pixels of truth t that are predicted as p, of those whose truth counts
/// (>= 0). Predictions are classes; all maps have the same pixels.
void add_confusion(std::span<const int16_t> truth, std::span<const int16_t> predicted, int64_t classes,
                   std::span<int64_t> confusion);

/// Pixels by class, [classes, 3]: right, of the truth, predicted (where the truth counts). All that the
/// scores need of a confusion matrix, in a size that can be kept for every image.
[[nodiscard]] std::vector<int64_t> class_areas(std::span<const int64_t> confusion, int64_t classes);

struct SegmentationScores {
  double miou = 0;  ///< mean of right / (truth or predicted), of classes that occur in either
  double macc = 0;  ///< mean of right / truth, of classes that occur in the truth
  double aacc = 0;  ///< share of pixels that are right
};
/// Of areas [classes, 3]. All 0 where no pixel counts.
[[nodiscard]] SegmentationScores segmentation_scores(std::span<const int64_t> areas, int64_t classes);

struct SegmentationEstimates {
  Estimate miou, macc, aacc;
};
/// Scores of the summed areas [images, classes, 3], with a percentile bootstrap over images.
[[nodiscard]] SegmentationEstimates bootstrap_segmentation(std::span<const int64_t> areas, int64_t classes,
                                                           int64_t resamples, uint64_t seed);

}  // namespace dino
