// SPDX-License-Identifier: Apache-2.0
#include "training/schedules.hpp"

#include <gtest/gtest.h>

namespace dino {
namespace {

TEST(Schedules, WarmupReachesTheBaseAndTheCosineEndsAtTheFinalValue) {
  const CosineSchedule schedule{1.0, 0.1, 100, 10, 0.0, 0};
  EXPECT_EQ(schedule.value(0), 0.0);
  EXPECT_EQ(schedule.value(9), 1.0);   // linspace includes its end
  EXPECT_EQ(schedule.value(10), 1.0);  // the cosine starts at the base
  EXPECT_NEAR(schedule.value(55), 0.55, 1e-15);
  EXPECT_GT(schedule.value(99), 0.1);  // the end point itself is not in the table
  EXPECT_EQ(schedule.value(100), 0.1);
  EXPECT_EQ(schedule.value(1'000'000'000'000), 0.1);
  for (int64_t i = 10; i < 99; ++i) EXPECT_GT(schedule.value(i), schedule.value(i + 1));
}

TEST(Schedules, FreezeComesBeforeTheWarmup) {
  const CosineSchedule schedule{2.0, 0.0, 50, 5, 1.0, 20};
  for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(schedule.value(i), 0.0);
  EXPECT_EQ(schedule.value(20), 1.0);
  EXPECT_EQ(schedule.value(24), 2.0);
  EXPECT_EQ(schedule.value(25), 2.0);
}

TEST(Schedules, DegenerateLengths) {
  EXPECT_EQ((CosineSchedule{1.0, 0.5, 0, 0, 0.0, 0}.value(0)), 0.5);
  EXPECT_EQ((CosineSchedule{1.0, 0.5, 3, 1, 0.25, 0}.value(0)), 0.25);  // linspace of one is its start
  EXPECT_EQ((CosineSchedule{1.0, 0.5, 3, 3, 0.0, 0}.value(2)), 1.0);    // no cosine at all
  EXPECT_EQ((LinearWarmup{0.04, 0.07, 0}.value(0)), 0.07);
}

TEST(Schedules, TemperatureWarmsUpLinearly) {
  const LinearWarmup temperature{0.04, 0.07, 31};
  EXPECT_EQ(temperature.value(0), 0.04);
  EXPECT_NEAR(temperature.value(15), 0.055, 1e-15);
  EXPECT_EQ(temperature.value(30), 0.07);
  EXPECT_EQ(temperature.value(31), 0.07);
}

}  // namespace
}  // namespace dino
