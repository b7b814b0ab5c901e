// SPDX-License-Identifier: Apache-2.0
#include "numeric/paired.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.hpp"

namespace dino {
namespace {

/// Every one of the 2^n swaps: what the random ones estimate.
double exact_p(const std::vector<double>& differences) {
  const size_t n = differences.size();
  double observed = 0;
  for (const double d : differences) observed += d;
  int64_t extreme = 0;
  for (size_t mask = 0; mask < (size_t{1} << n); ++mask) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += (mask >> i & 1) != 0 ? -differences[i] : differences[i];
    extreme += std::abs(sum) >= std::abs(observed) - 1e-12 ? 1 : 0;
  }
  return static_cast<double>(extreme) / static_cast<double>(size_t{1} << n);
}

TEST(PairedMeans, EqualTheTestOverAllSwaps) {
  const std::vector<double> first = {0.9, 0.7, 0.8, 0.95, 0.6, 0.85, 0.7, 0.9, 0.4, 0.8},
                            second = {0.8, 0.75, 0.6, 0.9, 0.5, 0.8, 0.72, 0.7, 0.45, 0.6};
  std::vector<double> differences;
  for (size_t i = 0; i < first.size(); ++i) differences.push_back(first[i] - second[i]);
  const PairedTest t = paired_means(first, second, 20000, 1);
  EXPECT_NEAR(t.difference, 0.078, 1e-12);
  EXPECT_NEAR(t.p, exact_p(differences), 0.01);
  EXPECT_LT(t.low, t.difference);
  EXPECT_GT(t.high, t.difference);
  const PairedTest again = paired_means(first, second, 20000, 1),
                   turned = paired_means(second, first, 20000, 1);
  EXPECT_EQ(t.p, again.p);
  EXPECT_EQ(t.low, again.low);
  EXPECT_NEAR(turned.difference, -t.difference, 1e-15);
  EXPECT_EQ(turned.p, t.p);
  EXPECT_EQ(paired_means(first, first, 500, 1).p, 1);
}

TEST(PairedMeans, CallsNoiseADifferenceInOneCaseOfTwenty) {
  Random random(3, RandomStream::test, 5);
  int64_t called = 0;
  constexpr int64_t kTables = 400;
  for (int64_t table = 0; table < kTables; ++table) {
    std::vector<double> a(30), b(30);
    for (size_t i = 0; i < a.size(); ++i) a[i] = random.normal(), b[i] = random.normal();
    called += paired_means(a, b, 400, static_cast<uint64_t>(table)).within_noise() ? 0 : 1;
  }
  EXPECT_NEAR(static_cast<double>(called) / kTables, 0.05, 0.035);
}

TEST(PixelMetrics, CountByHand) {
  // Class 0: 6 of 8 pixels found, 7 predicted; class 1: 3 of 4, 5 predicted; class 2 never.
  const std::vector<int64_t> sums = {6, 8, 7, 3, 4, 5, 0, 0, 0};
  EXPECT_DOUBLE_EQ(pixel_metric(PixelMetric::mean_iou, sums), (6.0 / 9 + 3.0 / 6) / 2);
  EXPECT_DOUBLE_EQ(pixel_metric(PixelMetric::mean_accuracy, sums), (6.0 / 8 + 3.0 / 4) / 2);
  EXPECT_DOUBLE_EQ(pixel_metric(PixelMetric::pixel_accuracy, sums), 9.0 / 12);
}

TEST(PairedPixels, SeeABetterModelAndNoDifferenceInNoise) {
  // The second model misses two pixels more of class 1 in every image.
  std::vector<int64_t> first, second;
  for (int64_t i = 0; i < 40; ++i) {
    const int64_t hit = 5 + i % 3;
    first.insert(first.end(), {85, 90, 90 + 10 - hit - 5, hit, 10, hit + 5});
    second.insert(second.end(), {85, 90, 90 + 10 - hit - 3, hit - 2, 10, hit + 3});
  }
  const PairedTest t = paired_pixels(PixelMetric::mean_iou, first, second, 2, 999, 0);
  EXPECT_EQ(t.n, 40);
  EXPECT_GT(t.low, 0);
  EXPECT_DOUBLE_EQ(t.p, 1.0 / 1000);
  EXPECT_EQ(paired_pixels(PixelMetric::mean_iou, first, first, 2, 99, 0).p, 1);
}

TEST(Unpaired, IsTheNormalTest) {
  // Standard errors 0.03 and 0.04: z = 0.1 / 0.05 = 2.
  const double z = 1.959963984540054;
  const PairedTest t =
      unpaired({0.6, 0.6 - z * 0.03, 0.6 + z * 0.03, 100}, {0.5, 0.5 - z * 0.04, 0.5 + z * 0.04, 90});
  EXPECT_NEAR(t.p, 0.0455002638963584, 1e-12);
  EXPECT_NEAR(t.low, 0.1 - z * 0.05, 1e-12);
}

TEST(Holm, EqualsThePublishedSteps) {
  // 4 * 0.005, 3 * 0.01, 2 * 0.03, 0.04 -> never below the one before.
  const std::vector<double> p = {0.01, 0.04, 0.03, 0.005}, adjusted = holm(p);
  EXPECT_DOUBLE_EQ(adjusted[3], 0.02);
  EXPECT_DOUBLE_EQ(adjusted[0], 0.03);
  EXPECT_DOUBLE_EQ(adjusted[2], 0.06);
  EXPECT_DOUBLE_EQ(adjusted[1], 0.06);
  EXPECT_TRUE(holm({}).empty());
}

}  // namespace
}  // namespace dino
