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

/// The statistic of one resampling: `image(i)` is the image that stands at place i, `swapped(i)` whether the
/// two models change sides there. The draws are those of (seed, resample), in order of the places.
using Statistic =
    std::function<double(const std::vector<int64_t>& image, const std::vector<uint8_t>& swapped)>;

PairedTest resampled(int64_t n, int64_t resamples, uint64_t seed, const Statistic& difference) {
  PairedTest t;
  t.n = n;
  if (n == 0) return t;
  std::vector<int64_t> in_order(static_cast<size_t>(n));
  std::iota(in_order.begin(), in_order.end(), 0);
  const std::vector<uint8_t> none(static_cast<size_t>(n));
  t.difference = difference(in_order, none);
  std::vector<double> values(static_cast<size_t>(resamples));
  std::vector<uint8_t> extreme(static_cast<size_t>(resamples));
  // Sums in another order must not make an equal difference a smaller one.
  const double bound = std::abs(t.difference) * (1 - 1e-12);
#pragma omp parallel for schedule(dynamic)
  for (int64_t r = 0; r < resamples; ++r) {
    std::vector<int64_t> image(static_cast<size_t>(n));
    std::vector<uint8_t> swapped(static_cast<size_t>(n));
    Random random(seed, RandomStream::bootstrap, static_cast<uint64_t>(r));
    for (int64_t& i : image) i = static_cast<int64_t>(random.below(static_cast<uint64_t>(n)));
    for (uint8_t& s : swapped) s = random.bernoulli(0.5) ? 1 : 0;
    values[static_cast<size_t>(r)] = difference(image, none);
    extreme[static_cast<size_t>(r)] = std::abs(difference(in_order, swapped)) >= bound ? 1 : 0;
  }
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double q) {
    const double at = q * static_cast<double>(resamples - 1);
    const auto i = static_cast<size_t>(at);
    const double next = i + 1 < values.size() ? values[i + 1] : values[i];
    return values[i] + (at - static_cast<double>(i)) * (next - values[i]);
  };
  t.low = quantile(0.025);
  t.high = quantile(0.975);
  const auto count = std::accumulate(extreme.begin(), extreme.end(), int64_t{0});
  t.p = static_cast<double>(1 + count) / static_cast<double>(1 + resamples);
  return t;
}

}  // namespace

PairedTest paired_means(std::span<const double> first, std::span<const double> second, int64_t resamples,
                        uint64_t seed) {
  DINO_CHECK(first.size() == second.size(), "a paired test needs the same samples");
  return resampled(static_cast<int64_t>(first.size()), resamples, seed,
                   [&](const std::vector<int64_t>& image, const std::vector<uint8_t>& swapped) {
                     double sum = 0;
                     for (size_t i = 0; i < image.size(); ++i) {
                       const auto at = static_cast<size_t>(image[i]);
                       sum += (first[at] - second[at]) * (swapped[i] != 0 ? -1 : 1);
                     }
                     return sum / static_cast<double>(image.size());
                   });
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
  const int64_t cells = 3 * classes, n = cells == 0 ? 0 : static_cast<int64_t>(first.size()) / cells;
  return resampled(
      n, resamples, seed, [&](const std::vector<int64_t>& image, const std::vector<uint8_t>& swapped) {
        std::vector<int64_t> a(static_cast<size_t>(cells)), b(static_cast<size_t>(cells));
        for (size_t i = 0; i < image.size(); ++i) {
          const int64_t *x = first.data() + image[i] * cells, *y = second.data() + image[i] * cells;
          if (swapped[i] != 0) std::swap(x, y);
          for (int64_t c = 0; c < cells; ++c) {
            a[static_cast<size_t>(c)] += x[c];
            b[static_cast<size_t>(c)] += y[c];
          }
        }
        return pixel_metric(metric, a) - pixel_metric(metric, b);
      });
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
