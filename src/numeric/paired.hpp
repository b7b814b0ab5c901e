// SPDX-License-Identifier: Apache-2.0
#pragma once
// Two models on the same images, for numbers that are no counts of right answers, and what many tests of one
// table mean together.

#include <cstdint>
#include <span>
#include <vector>

#include "numeric/statistics.hpp"

namespace dino {

/// Two models' values of the same images: the difference of their means. The interval is the percentile
/// bootstrap over images (95 %), p that of the permutation test which swaps the two models image by image
/// (Fisher's, by random swaps: p = (1 + as extreme) / (1 + resamples)). Depends on the seed alone.
[[nodiscard]] PairedTest paired_means(std::span<const double> first, std::span<const double> second,
                                      int64_t resamples, uint64_t seed);

/// What is made of counts of pixels summed over images.
enum class PixelMetric : uint8_t {
  mean_iou,        ///< over classes that occur or are predicted: intersection / union
  mean_accuracy,   ///< over classes that occur: intersection / truth
  pixel_accuracy,  ///< of all pixels: intersection / truth
};
/// sums [classes, 3]: pixels that truth and prediction share, of the truth, of the prediction.
[[nodiscard]] double pixel_metric(PixelMetric metric, std::span<const int64_t> sums);
/// As paired_means, of counts [images, classes, 3] that are summed before the metric is taken.
[[nodiscard]] PairedTest paired_pixels(PixelMetric metric, std::span<const int64_t> first,
                                       std::span<const int64_t> second, int64_t classes, int64_t resamples,
                                       uint64_t seed);

/// Two estimates of different samples, or of the same where nothing is known image by image: the normal test
/// of their difference, with the standard errors that the 95 % intervals imply. Conservative for the same
/// images.
[[nodiscard]] PairedTest unpaired(const Estimate& first, const Estimate& second);

/// Holm's step-down correction (1979): p values of one table, each to be held against the level of the whole.
[[nodiscard]] std::vector<double> holm(std::span<const double> p);

}  // namespace dino
