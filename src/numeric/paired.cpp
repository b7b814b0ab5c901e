// SPDX-License-Identifier: Apache-2.0
#include "numeric/paired.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/error.hpp"
#include "base/random.hpp"

namespace dino {

namespace {

/// The share of random swaps of the two models, image by image, that make a difference as large as the one
/// that was found: `difference(swapped)`, with a flag for every image.
double swap_test(int64_t n, int64_t resamples, uint64_t seed, double found,
                 const std::function<double(const std::vector<uint8_t>& swapped)>& difference) {
  // Sums in another order must not make an equal difference a smaller one.
  const double bound = std::abs(found) * (1 - 1e-12);
  int64_t extreme = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : extreme)
  for (int64_t r = 0; r < resamples; ++r) {
    std::vector<uint8_t> swapped(static_cast<size_t>(n));
    // Draws of their own, apart from those of the interval.
    Random random(~seed, RandomStream::bootstrap, static_cast<uint64_t>(r));
    for (uint8_t& s : swapped) s = random.bernoulli(0.5) ? 1 : 0;
    extreme += std::abs(difference(swapped)) >= bound ? 1 : 0;
  }
  return static_cast<double>(1 + extreme) / static_cast<double>(1 + resamples);
}

PairedTest test_of(const Estimate& interval, double p) {
  PairedTest t;
  t.n = interval.n;
  t.difference = interval.value;
  t.low = interval.low;
  t.high = interval.high;
  t.p = p;
  return t;
}

}  // namespace

PairedTest paired_means(std::span<const double> first, std::span<const double> second, int64_t resamples,
                        uint64_t seed) {
  DINO_CHECK(first.size() == second.size(), "a paired test needs the same samples");
  if (first.empty()) return {};
  const auto n = static_cast<int64_t>(first.size());
  std::vector<double> differences(first.size());
  for (size_t i = 0; i < first.size(); ++i) differences[i] = first[i] - second[i];
  const Estimate interval = bootstrap_mean(differences, resamples, seed);
  const double p = swap_test(n, resamples, seed, interval.value, [&](const std::vector<uint8_t>& swapped) {
    double sum = 0;
    for (size_t i = 0; i < swapped.size(); ++i) sum += swapped[i] != 0 ? -differences[i] : differences[i];
    return sum / static_cast<double>(n);
  });
  return test_of(interval, p);
}

double pixel_metric(PixelMetric metric, std::span<const int64_t> sums) {
  double sum = 0, all = 0;
  for (size_t c = 0; c + 2 < sums.size(); c += 3) {
    const auto both = static_cast<double>(sums[c]), truth = static_cast<double>(sums[c + 1]),
               predicted = static_cast<double>(sums[c + 2]);
    const double whole = metric == PixelMetric::mean_iou ? truth + predicted - both : truth;
    if (metric == PixelMetric::pixel_accuracy) {
      sum += both;
      all += whole;
    } else if (whole > 0) {
      sum += both / whole;
      all += 1;
    }
  }
  return all == 0 ? 0 : sum / all;
}

PairedTest paired_pixels(PixelMetric metric, std::span<const int64_t> first, std::span<const int64_t> second,
                         int64_t classes, int64_t resamples, uint64_t seed) {
  DINO_CHECK(first.size() == second.size(), "a paired test needs the same samples");
  if (first.empty()) return {};
  const int64_t cells = 3 * classes, n = static_cast<int64_t>(first.size()) / cells;
  // Sums over images, each as often as `times` says, the models swapped where `swapped` does.
  const auto difference = [&](const int64_t* times, const uint8_t* swapped) {
    std::vector<int64_t> a(static_cast<size_t>(cells)), b(static_cast<size_t>(cells));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t *x = first.data() + i * cells, *y = second.data() + i * cells;
      const int64_t weight = times == nullptr ? 1 : times[i];
      if (swapped != nullptr && swapped[i] != 0) std::swap(x, y);
      for (int64_t c = 0; c < cells; ++c) {
        a[static_cast<size_t>(c)] += weight * x[c];
        b[static_cast<size_t>(c)] += weight * y[c];
      }
    }
    return pixel_metric(metric, a) - pixel_metric(metric, b);
  };
  const Estimate interval = bootstrap(n, resamples, seed, [&](std::span<const int64_t> counts) {
    return difference(counts.data(), nullptr);
  });
  return test_of(interval,
                 swap_test(n, resamples, seed, interval.value, [&](const std::vector<uint8_t>& swapped) {
                   return difference(nullptr, swapped.data());
                 }));
}

PairedTest unpaired(const Estimate& first, const Estimate& second) {
  constexpr double kZ95 = 1.959963984540054;
  PairedTest t;
  t.n = std::min(first.n, second.n);
  t.difference = first.value - second.value;
  const double half = std::hypot(first.high - first.low, second.high - second.low) / 2;
  t.low = t.difference - half;
  t.high = t.difference + half;
  // half = z95 * standard error of the difference.
  t.p = half > 0 ? std::erfc(std::abs(t.difference) / half * kZ95 / std::sqrt(2.0))
                 : (t.difference == 0 ? 1 : 0);
  return t;
}

std::vector<double> holm(std::span<const double> p) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] < p[b]; });
  std::vector<double> out(p.size());
  double least = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    least = std::max(least, std::min(1.0, p[order[i]] * static_cast<double>(p.size() - i)));
    out[order[i]] = least;
  }
  return out;
}

}  // namespace dino
