// SPDX-License-Identifier: Apache-2.0
#include "numeric/statistics.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace dino {
namespace {

TEST(Wilson, SolvesItsOwnEquation) {
  // The bounds are where |p - k/n| = z sqrt(p (1 - p) / n).
  for (const auto& [k, n] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 10}, {3, 10}, {10, 10}, {8560, 10000}, {1, 1}}) {
    const Estimate e = wilson(k, n);
    EXPECT_DOUBLE_EQ(e.value, static_cast<double>(k) / static_cast<double>(n));
    EXPECT_LE(e.low, e.value);
    EXPECT_GE(e.high, e.value);
    for (const double p : {e.low, e.high}) {
      if (p < 1e-12 || p > 1 - 1e-12) continue;
      const double distance = 1.959963984540054 * std::sqrt(p * (1 - p) / static_cast<double>(n));
      EXPECT_NEAR(std::abs(p - e.value), distance, 1e-12) << k << "/" << n;
    }
  }
  // Published: 85.6 % of 10,000 is good to +-0.69 points.
  const Estimate e = wilson(8560, 10000);
  EXPECT_NEAR(e.high - e.low, 2 * 0.0069, 2e-4);
}

TEST(Wilson, NoTrialsTellNothing) {
  const Estimate e = wilson(0, 0);
  EXPECT_EQ(e.low, 0);
  EXPECT_EQ(e.high, 1);
}

TEST(MeanIou, CountsByHand) {
  // truth 0: 6 right, 2 taken for 1; truth 1: 1 taken for 0, 3 right. IoU = 6/9 and 3/6.
  const std::vector<int64_t> matrix = {6, 2, 1, 3};
  EXPECT_DOUBLE_EQ(mean_iou(matrix, 2), (6.0 / 9 + 3.0 / 6) / 2);
  // A class that never occurs does not count.
  const std::vector<int64_t> three = {6, 2, 0, 1, 3, 0, 0, 0, 0};
  EXPECT_DOUBLE_EQ(mean_iou(three, 3), (6.0 / 9 + 3.0 / 6) / 2);
}

TEST(Bootstrap, IsDeterministicAndShrinksWithImages) {
  std::vector<int64_t> few, many;
  for (int i = 0; i < 400; ++i) {
    const int64_t good = 50 + (i * 37) % 50;
    for (auto* list : {&few, &many})
      if (list == &many || i < 25) list->insert(list->end(), {good, 100 - good, 10, 90});
  }
  const Estimate a = bootstrap_mean_iou(few, 2, 500, 7), b = bootstrap_mean_iou(few, 2, 500, 7),
                 other = bootstrap_mean_iou(few, 2, 500, 8);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_NE(a.low, other.low);
  EXPECT_LT(a.low, a.value);
  EXPECT_GT(a.high, a.value);
  const Estimate wide = a, narrow = bootstrap_mean_iou(many, 2, 500, 7);
  // Sixteen times the images: about a quarter of the width.
  EXPECT_NEAR((narrow.high - narrow.low) / (wide.high - wide.low), 0.25, 0.1);
  EXPECT_EQ(bootstrap_mean_iou({}, 2, 100, 0).n, 0);
}

TEST(Bootstrap, OfAMeanIsAsWideAsTheNormalInterval) {
  std::vector<double> values;
  double sum = 0, squares = 0;
  for (int i = 0; i < 300; ++i) {
    values.push_back((i * 37 % 100) / 100.0);
    sum += values.back(), squares += values.back() * values.back();
  }
  const Estimate e = bootstrap_mean(values, 2000, 3);
  const double mean = sum / 300, error = std::sqrt((squares / 300 - mean * mean) / 300);
  EXPECT_NEAR(e.value, mean, 1e-12);
  EXPECT_EQ(e.n, 300);
  EXPECT_NEAR(e.high - e.low, 2 * 1.96 * error, 0.1 * error);
  EXPECT_EQ(bootstrap_mean(std::vector<double>(5, 0.25), 100, 0).high, 0.25);
  EXPECT_EQ(bootstrap_mean({}, 100, 0).high, 1);
}

TEST(McNemar, AgreesWithTheBinomialByHand) {
  // 9 discordant, 1 against 8: p = 2 (1 + 9) / 2^9.
  std::vector<uint8_t> a, b;
  for (int i = 0; i < 8; ++i) a.push_back(1), b.push_back(0);
  a.push_back(0), b.push_back(1);
  for (int i = 0; i < 11; ++i) a.push_back(1), b.push_back(1);
  const PairedTest t = mcnemar(a, b);
  EXPECT_EQ(t.only_first, 8);
  EXPECT_EQ(t.only_second, 1);
  EXPECT_NEAR(t.p, 20.0 / 512, 1e-12);
  EXPECT_FALSE(t.within_noise());
  EXPECT_NEAR(t.difference, 7.0 / 20, 1e-15);
  EXPECT_LT(t.low, t.difference);
  EXPECT_NEAR(mcnemar(b, a).difference, -t.difference, 1e-15);
}

TEST(McNemar, EqualModelsAreWithinNoise) {
  const std::vector<uint8_t> a = {1, 0, 1, 1};
  const PairedTest t = mcnemar(a, a);
  EXPECT_EQ(t.p, 1);
  EXPECT_TRUE(t.within_noise());
  EXPECT_TRUE(mcnemar({}, {}).within_noise());
}

}  // namespace
}  // namespace dino
