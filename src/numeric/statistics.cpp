// SPDX-License-Identifier: Apache-2.0
#include "numeric/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.hpp"
#include "base/random.hpp"

namespace dino {

namespace {
constexpr double kZ95 = 1.959963984540054;
}

Estimate wilson(int64_t successes, int64_t n) {
  DINO_CHECK(successes >= 0 && successes <= n, "more successes than trials");
  if (n == 0) return {0, 0, 1, 0};
  const double count = static_cast<double>(n), p = static_cast<double>(successes) / count, z2 = kZ95 * kZ95;
  const double centre = (p + z2 / (2 * count)) / (1 + z2 / count);
  const double half = kZ95 * std::sqrt(p * (1 - p) / count + z2 / (4 * count * count)) / (1 + z2 / count);
  // Rounding must not put the value outside its own interval (it is a bound at 0 and at n successes).
  return {p, std::clamp(centre - half, 0.0, p), std::clamp(centre + half, p, 1.0), n};
}

double mean_iou(std::span<const int64_t> confusion, int64_t classes) {
  double sum = 0;
  int64_t present = 0;
  for (int64_t c = 0; c < classes; ++c) {
    int64_t truth = 0, predicted = 0;
    for (int64_t o = 0; o < classes; ++o) {
      truth += confusion[static_cast<size_t>(c * classes + o)];
      predicted += confusion[static_cast<size_t>(o * classes + c)];
    }
    const int64_t both = confusion[static_cast<size_t>(c * classes + c)], either = truth + predicted - both;
    if (either == 0) continue;
    sum += static_cast<double>(both) / static_cast<double>(either);
    ++present;
  }
  return present == 0 ? 0 : sum / static_cast<double>(present);
}

Estimate bootstrap(int64_t n, int64_t resamples, uint64_t seed,
                   const std::function<double(std::span<const int64_t> counts)>& statistic) {
  if (n == 0) return {0, 0, 1, 0};
  std::vector<int64_t> counts(static_cast<size_t>(n), 1);
  Estimate result{statistic(counts), 0, 0, n};
  std::vector<double> values(static_cast<size_t>(resamples));
  for (int64_t r = 0; r < resamples; ++r) {
    Random random(seed, RandomStream::bootstrap, static_cast<uint64_t>(r));
    std::fill(counts.begin(), counts.end(), 0);
    for (int64_t i = 0; i < n; ++i) ++counts[static_cast<size_t>(random.below(static_cast<uint64_t>(n)))];
    values[static_cast<size_t>(r)] = statistic(counts);
  }
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double q) {
    const double at = q * static_cast<double>(resamples - 1);
    const auto i = static_cast<size_t>(at);
    const double next = i + 1 < values.size() ? values[i + 1] : values[i];
    return values[i] + (at - static_cast<double>(i)) * (next - values[i]);
  };
  result.low = quantile(0.025);
  result.high = quantile(0.975);
  return result;
}

Estimate bootstrap_mean(std::span<const double> values, int64_t resamples, uint64_t seed) {
  const auto n = static_cast<int64_t>(values.size());
  return bootstrap(n, resamples, seed, [&](std::span<const int64_t> counts) {
    double sum = 0;
    for (size_t i = 0; i < counts.size(); ++i) sum += static_cast<double>(counts[i]) * values[i];
    return sum / static_cast<double>(n);
  });
}

Estimate bootstrap_mean_iou(std::span<const int64_t> confusions, int64_t classes, int64_t resamples,
                            uint64_t seed) {
  const int64_t cells = classes * classes, images = static_cast<int64_t>(confusions.size()) / cells;
  std::vector<int64_t> total(static_cast<size_t>(cells));
  return bootstrap(images, resamples, seed, [&](std::span<const int64_t> counts) {
    std::fill(total.begin(), total.end(), 0);
    for (int64_t i = 0; i < images; ++i) {
      const int64_t drawn = counts[static_cast<size_t>(i)];
      for (int64_t c = 0; drawn != 0 && c < cells; ++c)
        total[static_cast<size_t>(c)] += drawn * confusions[static_cast<size_t>(i * cells + c)];
    }
    return mean_iou(total, classes);
  });
}

PairedTest mcnemar(std::span<const uint8_t> first_right, std::span<const uint8_t> second_right) {
  DINO_CHECK(first_right.size() == second_right.size(), "a paired test needs the same samples");
  PairedTest t;
  t.counted = true;
  t.n = static_cast<int64_t>(first_right.size());
  if (t.n == 0) return t;
  for (size_t i = 0; i < first_right.size(); ++i) {
    t.only_first += (first_right[i] != 0 && second_right[i] == 0) ? 1 : 0;
    t.only_second += (first_right[i] == 0 && second_right[i] != 0) ? 1 : 0;
  }
  const double n = static_cast<double>(t.n), b = static_cast<double>(t.only_first),
               c = static_cast<double>(t.only_second);
  t.difference = (b - c) / n;
  const double half = kZ95 * std::sqrt(std::max(0.0, b + c - (b - c) * (b - c) / n)) / n;
  t.low = t.difference - half;
  t.high = t.difference + half;
  // Under H0 the discordant samples fall on either side like fair coins: p = 2 P(X <= min(b, c)),
  // X ~ Binomial(b + c, 1/2).
  const int64_t trials = t.only_first + t.only_second, few = std::min(t.only_first, t.only_second);
  double tail = 0;
  for (int64_t k = 0; k <= few; ++k)
    tail += std::exp(std::lgamma(static_cast<double>(trials) + 1) - std::lgamma(static_cast<double>(k) + 1) -
                     std::lgamma(static_cast<double>(trials - k) + 1) -
                     static_cast<double>(trials) * std::log(2.0));
  t.p = std::min(1.0, 2 * tail);
  return t;
}

}  // namespace dino
