// SPDX-License-Identifier: Apache-2.0
#include "base/random.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace dino {
namespace {

using Words = std::array<uint32_t, 4>;

// Known answers published with Random123 (philox4x32-10).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffffu;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, IsAFunctionOfSeedStreamAndIndex) {
  Random a(7, RandomStream::augment, 42), b(7, RandomStream::augment, 42);
  Random other_index(7, RandomStream::augment, 43), other_stream(7, RandomStream::masks, 42),
      other_seed(8, RandomStream::augment, 42);
  for (int i = 0; i < 9; ++i) {
    const uint32_t value = a.u32();
    EXPECT_EQ(value, b.u32());
    EXPECT_NE(value, other_index.u32());
    EXPECT_NE(value, other_stream.u32());
    EXPECT_NE(value, other_seed.u32());
  }
}

TEST(Random, BelowIsUniform) {
  Random random(1, RandomStream::test, 0);
  std::array<int, 7> counts{};
  constexpr int kDraws = 70000;
  for (int i = 0; i < kDraws; ++i) ++counts[random.below(7)];
  // 10 000 expected in each; the standard deviation is 93.
  for (const int count : counts) EXPECT_NEAR(count, kDraws / 7, 500);
  EXPECT_EQ(random.below(1), 0u);
}

TEST(Random, NormalHasUnitVariance) {
  Random random(2, RandomStream::test, 0);
  double sum = 0, squares = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.02);
  EXPECT_NEAR(squares / kDraws, 1, 0.02);
}

TEST(Random, PermutationHasEveryNumberOnce) {
  Random random(3, RandomStream::shuffle, 5);
  const std::vector<int64_t> order = permutation(random, 1000);
  EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 1000u);
  int fixed = 0;
  for (size_t i = 0; i < order.size(); ++i) fixed += order[i] == static_cast<int64_t>(i) ? 1 : 0;
  EXPECT_LT(fixed, 10);
}

}  // namespace
}  // namespace dino
