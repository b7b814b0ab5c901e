// SPDX-License-Identifier: Apache-2.0
#include "training/loss_scale.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"

namespace dino {
namespace {

TrainingConfig in_f16(double scale) {
  TrainingConfig config;
  config.precision = Precision::f16;
  config.loss_scale = scale;
  return config;
}

TEST(LossScale, IsThereForF16Alone) {
  TrainingConfig config = in_f16(256);
  EXPECT_EQ(LossScale(config).value(), 256);
  for (const Precision compute : {Precision::f32, Precision::bf16})
    for (const Precision reduce : {Precision::f32, Precision::bf16, Precision::f16}) {
      config.precision = compute;
      config.reduce_precision = reduce;
      LossScale scale(config);
      EXPECT_EQ(scale.value(), reduce == Precision::f16 ? 256 : 1);
      EXPECT_EQ(scale.settle(false), reduce == Precision::f16);
      EXPECT_EQ(scale.state().empty(), reduce != Precision::f16);
    }
}

TEST(LossScale, IsHalvedByOverflowsDownToTheLeast) {
  LossScale scale(in_f16(4));
  EXPECT_FALSE(scale.settle(true));
  EXPECT_EQ(scale.value(), 4);
  for (const double expected : {2, 1}) {
    EXPECT_TRUE(scale.settle(false));
    EXPECT_EQ(scale.value(), expected);
  }
  EXPECT_FALSE(scale.settle(false));
  EXPECT_EQ(scale.value(), LossScale::kLeast);
}

TEST(LossScale, DoublesAfterFiniteStepsInARow) {
  LossScale scale(in_f16(4));
  const auto finite = [&](int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) EXPECT_FALSE(scale.settle(true));
    return scale.value();
  };
  EXPECT_EQ(finite(LossScale::kGrowthSteps - 1), 4);
  EXPECT_EQ(finite(1), 8);
  EXPECT_EQ(finite(LossScale::kGrowthSteps), 16);
  EXPECT_EQ(finite(LossScale::kGrowthSteps - 1), 16);
  EXPECT_TRUE(scale.settle(false));
  EXPECT_EQ(finite(LossScale::kGrowthSteps - 1), 8) << "an overflow begins the count anew";
  EXPECT_EQ(finite(1), 16);
  scale = LossScale(in_f16(LossScale::kMost));
  EXPECT_EQ(finite(LossScale::kGrowthSteps), LossScale::kMost);
  scale = LossScale(in_f16(4 * LossScale::kMost));
  EXPECT_EQ(finite(LossScale::kGrowthSteps), 4 * LossScale::kMost) << "it only falls by overflows";
}

TEST(LossScale, ComesBackFromACheckpoint) {
  LossScale scale(in_f16(64)), other(in_f16(2));
  for (int64_t i = 1; i < LossScale::kGrowthSteps; ++i) EXPECT_FALSE(scale.settle(true));
  other.set_state(scale.state());
  EXPECT_EQ(other.state(), scale.state());
  EXPECT_FALSE(other.settle(true));
  EXPECT_EQ(other.value(), 128) << "the count too";
  other.set_state({});
  EXPECT_EQ(other.value(), 128);
  for (const std::vector<double>& bad :
       {std::vector<double>{}, {64}, {0, 0}, {-1, 0}, {64, -1}, {64, 2000}, {1e300, 0}, {0.0 / 0.0, 0}})
    EXPECT_THROW(other.set_state({{"loss_scale", bad}}), DataError);
  LossScale none{TrainingConfig{}};
  none.set_state(scale.state());
  EXPECT_EQ(none.value(), 1);
}

}  // namespace
}  // namespace dino
