// SPDX-License-Identifier: Apache-2.0
#include "base/keyed_permutation.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace dino {
namespace {

KeyedPermutation drawn(int64_t n, uint64_t seed, uint64_t index = 0) {
  return {n, seed, RandomStream::test, index};
}

std::vector<int64_t> table(const KeyedPermutation& permutation) {
  std::vector<int64_t> values;
  for (int64_t i = 0; i < permutation.size(); ++i) values.push_back(permutation(i));
  return values;
}

TEST(KeyedPermutation, HasEveryValueOnce) {
  std::vector<int64_t> sizes;
  for (int64_t n = 1; n <= 70; ++n) sizes.push_back(n);
  for (const int64_t n : {255, 256, 257, 1000, 4095, 4097, 65537, 100003}) sizes.push_back(n);
  for (const int64_t n : sizes) {
    std::vector<bool> seen(static_cast<size_t>(n));
    for (const int64_t value : table(drawn(n, 3))) {
      ASSERT_TRUE(value >= 0 && value < n) << n;
      ASSERT_FALSE(seen[static_cast<size_t>(value)]) << n;
      seen[static_cast<size_t>(value)] = true;
    }
  }
}

TEST(KeyedPermutation, IsAnotherForEverySeedAndIndex) {
  std::set<std::vector<int64_t>> all;
  for (uint64_t seed = 0; seed < 20; ++seed)
    for (uint64_t index = 0; index < 20; ++index) all.insert(table(drawn(40, seed, index)));
  EXPECT_EQ(all.size(), 400U);
  EXPECT_EQ(table(drawn(40, 1, 2)), table(drawn(40, 1, 2)));
}

/// Every value stands at every place equally often, and so does every pair at two places: chi-square within
/// five deviations of its mean.
TEST(KeyedPermutation, IsUniformOverKeys) {
  constexpr int64_t kDraws = 40000;
  for (const int64_t n : {2, 3, 5, 8, 13}) {
    std::vector<double> places(static_cast<size_t>(n * n)), pairs(static_cast<size_t>(n * (n - 1)));
    for (int64_t draw = 0; draw < kDraws; ++draw) {
      const std::vector<int64_t> values = table(drawn(n, 7, static_cast<uint64_t>(draw)));
      for (int64_t i = 0; i < n; ++i) ++places[static_cast<size_t>(i * n + values[static_cast<size_t>(i)])];
      ++pairs[static_cast<size_t>(values[0] * (n - 1) + values[1] - (values[1] > values[0] ? 1 : 0))];
    }
    const auto within = [&](const std::vector<double>& counts, double mean) {
      double total = 0, chi = 0;
      for (const double count : counts) total += count;
      const double expected = total / static_cast<double>(counts.size());
      for (const double count : counts) chi += (count - expected) * (count - expected) / expected;
      EXPECT_LT(std::abs(chi - mean), 5 * std::sqrt(2 * mean) + 5) << n;
    };
    // Rows and columns of the first table have fixed sums, which its mean accounts for.
    within(places, static_cast<double>(n * (n - 1)));
    within(pairs, static_cast<double>(n * (n - 1) - 1));
  }
}

/// No table: the largest sets cost what small ones do.
TEST(KeyedPermutation, TakesSetsOfAnySize) {
  const KeyedPermutation large = drawn(int64_t{1} << 40, 5);
  std::set<int64_t> values;
  for (int64_t i = 0; i < 1000; ++i) values.insert(large(i));
  EXPECT_EQ(values.size(), 1000U);
  EXPECT_GT(*values.rbegin(), int64_t{1} << 39);
}

}  // namespace
}  // namespace dino
