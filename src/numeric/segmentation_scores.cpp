// SPDX-License-Identifier: Apache-2.0
#include "numeric/segmentation_scores.hpp"

#include <algorithm>

#include "base/error.hpp"

namespace dino {

void add_confusion(std::span<const int16_t> truth, std::span<const int16_t> predicted, int64_t classes,
                   std::span<int64_t> confusion) {
  DINO_CHECK(truth.size() == predicted.size(), "two maps of other sizes");
  DINO_CHECK(static_cast<int64_t>(confusion.size()) == classes * classes, "a confusion matrix is square");
  for (size_t i = 0; i < truth.size(); ++i) {
    const int64_t t = truth[i], p = predicted[i];
    if (t < 0) continue;
    DINO_CHECK(t < classes && p >= 0 && p < classes, "a class beyond the matrix");
    ++confusion[static_cast<size_t>(t * classes + p)];
  }
}

std::vector<int64_t> class_areas(std::span<const int64_t> confusion, int64_t classes) {
  std::vector<int64_t> areas(static_cast<size_t>(3 * classes));
  for (int64_t t = 0; t < classes; ++t)
    for (int64_t p = 0; p < classes; ++p) {
      const int64_t pixels = confusion[static_cast<size_t>(t * classes + p)];
      if (t == p) areas[static_cast<size_t>(3 * t)] += pixels;
      areas[static_cast<size_t>(3 * t + 1)] += pixels;
      areas[static_cast<size_t>(3 * p + 2)] += pixels;
    }
  return areas;
}

SegmentationScores segmentation_scores(std::span<const int64_t> areas, int64_t classes) {
  DINO_CHECK(static_cast<int64_t>(areas.size()) == 3 * classes, "areas are [classes, 3]");
  SegmentationScores scores;
  double present = 0, in_truth = 0, right = 0, all = 0;
  for (int64_t c = 0; c < classes; ++c) {
    const auto both = static_cast<double>(areas[static_cast<size_t>(3 * c)]),
               truth = static_cast<double>(areas[static_cast<size_t>(3 * c + 1)]),
               predicted = static_cast<double>(areas[static_cast<size_t>(3 * c + 2)]);
    const double either = truth + predicted - both;
    right += both;
    all += truth;
    if (either > 0) scores.miou += both / either, ++present;
    if (truth > 0) scores.macc += both / truth, ++in_truth;
  }
  scores.miou /= std::max(present, 1.0);
  scores.macc /= std::max(in_truth, 1.0);
  scores.aacc = right / std::max(all, 1.0);
  return scores;
}

SegmentationEstimates bootstrap_segmentation(std::span<const int64_t> areas, int64_t classes,
                                             int64_t resamples, uint64_t seed) {
  const int64_t cells = 3 * classes, images = static_cast<int64_t>(areas.size()) / cells;
  std::vector<int64_t> total(static_cast<size_t>(cells));
  // The same images are drawn for all three.
  const auto estimate = [&](double SegmentationScores::*score) {
    return bootstrap(images, resamples, seed, [&](std::span<const int64_t> counts) {
      std::fill(total.begin(), total.end(), 0);
      for (int64_t i = 0; i < images; ++i) {
        const int64_t drawn = counts[static_cast<size_t>(i)];
        for (int64_t c = 0; drawn != 0 && c < cells; ++c)
          total[static_cast<size_t>(c)] += drawn * areas[static_cast<size_t>(i * cells + c)];
      }
      return segmentation_scores(total, classes).*score;
    });
  };
  return {estimate(&SegmentationScores::miou), estimate(&SegmentationScores::macc),
          estimate(&SegmentationScores::aacc)};
}

}  // namespace dino
