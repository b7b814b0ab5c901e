// SPDX-License-Identifier: Apache-2.0
#include "replaced_samples.hpp"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "base/random.hpp"

namespace dino::pretrain {
namespace {

/// Trains on `records` images of which the first `broken` are; the step at which it ends, or -1.
int64_t ends_at(int64_t records, int64_t broken, int64_t batch, double limit, int64_t steps,
                uint64_t seed = 0) {
  ReplacedSamples count(records, limit);
  std::vector<int64_t> order;
  int64_t epoch = -1;
  for (int64_t step = 0; step < steps; ++step) {
    ReplacedCounts replaced{};
    for (int64_t sample = step * batch; sample < (step + 1) * batch; ++sample) {
      if (sample / records != epoch) {
        epoch = sample / records;
        Random random(seed, RandomStream::test, static_cast<uint64_t>(epoch));
        order = permutation(random, records);
      }
      if (order[static_cast<size_t>(sample % records)] < broken)
        count_replaced(replaced, DecodeStatus::truncated);
    }
    count.add(step * batch, batch, replaced);
    if (count.too_many()) return step;
  }
  return -1;
}

TEST(ReplacedSamples, AShareWithinTheLimitNeverEndsATraining) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    EXPECT_EQ(ends_at(1000, 50, 8, 0.05, 1000, seed), -1) << seed;
    EXPECT_EQ(ends_at(20, 1, 8, 0.05, 500, seed), -1) << seed;
    EXPECT_EQ(ends_at(100, 5, 7, 0.05, 500, seed), -1) << seed;
    EXPECT_EQ(ends_at(24, 1, 256, 0.05, 50, seed), -1) << seed;
    EXPECT_EQ(ends_at(1000, 0, 8, 0, 300, seed), -1);
  }
}

TEST(ReplacedSamples, MoreThanTheLimitEndsItWithinAFewPasses) {
  for (uint64_t seed = 0; seed < 50; ++seed)
    for (const auto& [records, broken, batch] :
         {std::array<int64_t, 3>{1000, 60, 8}, {24, 2, 8}, {24, 2, 256}, {100, 6, 7}, {64, 60, 8}}) {
      const int64_t step = ends_at(records, broken, batch, 0.05, 2000, seed);
      EXPECT_GE(step, 0);
      EXPECT_LE(step * batch, 5 * records + batch) << records << " " << broken;
    }
}

TEST(ReplacedSamples, ManyBrokenImagesOfMillionsAreFoundAtOnce) {
  EXPECT_LE(ends_at(1'000'000, 990'000, 8, 0.05, 50), 3);
  EXPECT_LE(ends_at(1'000'000, 200'000, 64, 0.05, 200), 30);
}

TEST(ReplacedSamples, TheLimitCanBeSwitchedOff) {
  EXPECT_EQ(ends_at(100, 99, 8, 1, 200), -1);
}

}  // namespace
}  // namespace dino::pretrain
