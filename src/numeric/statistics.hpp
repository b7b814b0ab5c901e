// SPDX-License-Identifier: Apache-2.0
#pragma once
// Intervals and tests. Everything random is keyed by (seed, resample), so all ranks and runs agree.

#include <cstdint>
#include <functional>
#include <span>

namespace dino {

/// A number with its 95 % interval.
struct Estimate {
  double value = 0, low = 0, high = 0;
  int64_t n = 0;
};

/// Wilson's score interval of a proportion (1927). n = 0 gives value 0 and the interval [0, 1].
[[nodiscard]] Estimate wilson(int64_t successes, int64_t n);

/// Mean over classes of intersection / union from a confusion matrix [classes, classes] (rows: truth).
/// Classes that neither occur nor are predicted do not count.
[[nodiscard]] double mean_iou(std::span<const int64_t> confusion, int64_t classes);

/// A statistic of n units (images, queries) with a percentile bootstrap: resamples draw n units with
/// replacement, and `statistic` takes how often each was drawn. n = 0 gives value 0 and the interval [0, 1].
[[nodiscard]] Estimate bootstrap(int64_t n, int64_t resamples, uint64_t seed,
                                 const std::function<double(std::span<const int64_t> counts)>& statistic);
/// Of the mean of values.
[[nodiscard]] Estimate bootstrap_mean(std::span<const double> values, int64_t resamples, uint64_t seed);

/// mIoU of the summed matrices with a percentile bootstrap over images: resamples draw images with
/// replacement and sum their matrices again. `confusions` is [images, classes * classes].
[[nodiscard]] Estimate bootstrap_mean_iou(std::span<const int64_t> confusions, int64_t classes,
                                          int64_t resamples, uint64_t seed);

/// Two models on the same samples.
struct PairedTest {
  int64_t n = 0, only_first = 0, only_second = 0;
  bool counted = false;      ///< only_first and only_second: samples that one of them alone has right
  double difference = 0;     ///< the first's number minus the second's
  double low = 0, high = 0;  ///< 95 % interval of it
  double p = 1;              ///< two-sided
  [[nodiscard]] bool within_noise() const { return p >= 0.05; }
};
/// Accuracies: McNemar's exact test, and Wald's interval for paired proportions.
[[nodiscard]] PairedTest mcnemar(std::span<const uint8_t> first_right, std::span<const uint8_t> second_right);

}  // namespace dino
