// SPDX-License-Identifier: Apache-2.0
// What is an outlier among losses and gradient norms.
#include "outliers.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "base/random.hpp"

namespace dino::pretrain {
namespace {

/// Normal losses around 6 and gradient norms around 2; the number of outliers.
int feed(OutlierDetector& detector, int64_t steps, uint64_t seed = 0) {
  Random random(seed, RandomStream::synthetic, 0);
  int outliers = 0;
  for (int64_t i = 0; i < steps; ++i) {
    const double loss = 6 + 0.1 * static_cast<double>(random.normal());
    const double norm = 2 + 0.2 * static_cast<double>(random.normal());
    outliers += detector.add(loss, norm) ? 1 : 0;
  }
  return outliers;
}

TEST(OutlierDetector, FindsAJumpAndItsSize) {
  OutlierDetector detector(8);
  EXPECT_EQ(feed(detector, 2000), 0);
  const auto loss = detector.add(8, 2);
  ASSERT_TRUE(loss);
  EXPECT_STREQ(loss->quantity, "loss");
  EXPECT_NEAR(loss->mean, 6, 0.05);
  EXPECT_NEAR(loss->z, 20, 4);
  feed(detector, 300);
  const auto norm = detector.add(7, 20);
  ASSERT_TRUE(norm);
  EXPECT_STREQ(norm->quantity, "grad_norm") << "the larger one is told";
}

TEST(OutlierDetector, GoesOnFromItsState) {
  OutlierDetector whole(8), before(8), after(8);
  feed(whole, 40);
  feed(before, 40);
  after.set_state(before.state());
  for (const double loss : {6.0, 9.0, 6.1, 7.0}) {
    const auto want = whole.add(loss, 2), got = after.add(loss, 2);
    ASSERT_EQ(want.has_value(), got.has_value()) << loss;
    if (want) {
      EXPECT_EQ(want->z, got->z);
    }
  }
  after.set_state({});
  EXPECT_FALSE(after.add(1000, 1000)) << "a window without its state begins anew";
}

TEST(OutlierDetector, ALowLossIsNone) {
  OutlierDetector detector(8);
  feed(detector, 200);
  EXPECT_FALSE(detector.add(0, 0));
}

TEST(OutlierDetector, JudgesNothingBeforeItHasSeenSteps) {
  OutlierDetector detector(8);
  for (size_t i = 0; i + 1 < OutlierDetector::kLeast; ++i) EXPECT_FALSE(detector.add(1 + 1e-3 * (i % 2), 1));
  EXPECT_FALSE(detector.add(1000, 1000)) << "the window is one short";
  OutlierDetector longer(8);
  for (size_t i = 0; i < OutlierDetector::kLeast; ++i) EXPECT_FALSE(longer.add(1 + 1e-3 * (i % 2), 1));
  EXPECT_TRUE(longer.add(1000, 1000));
}

TEST(OutlierDetector, ForgetsWhatLeftTheWindow) {
  OutlierDetector detector(8);
  feed(detector, 200);
  EXPECT_TRUE(detector.add(12, 2));
  for (size_t i = 0; i < OutlierDetector::kWindow; ++i) static_cast<void>(detector.add(12, 2));
  EXPECT_FALSE(detector.add(12.05, 2)) << "another level is the usual one in the end";
}

TEST(OutlierDetector, RoundingOfAConstantIsNone) {
  OutlierDetector detector(8);
  for (int i = 0; i < 100; ++i) static_cast<void>(detector.add(5, 1));
  EXPECT_FALSE(detector.add(5 * (1 + 1e-6), 1));
  EXPECT_TRUE(detector.add(5.1, 1));
  OutlierDetector zeros(8);
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(zeros.add(0, 0));
}

TEST(OutlierDetector, OffFindsNothing) {
  OutlierDetector detector(0);
  feed(detector, 200);
  EXPECT_FALSE(detector.add(1e9, 1e9));
}

}  // namespace
}  // namespace dino::pretrain
