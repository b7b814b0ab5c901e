// SPDX-License-Identifier: Apache-2.0
#include "numeric/token_budget.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.hpp"
#include "base/random.hpp"

namespace dino {
namespace {

int64_t sum_of(const std::vector<int64_t>& tokens) {
  return std::accumulate(tokens.begin(), tokens.end(), int64_t{0});
}

TEST(Entropy, BetweenOneFeatureAndAllAlike) {
  EXPECT_NEAR(feature_entropy(std::vector<float>(384, 3.5F)), std::log(384.0), 1e-4);
  EXPECT_NEAR(feature_entropy(std::vector<float>{100, 0, 0, 0}), 0, 1e-6);
  // p = (2/3, 1/3).
  const float log2 = std::log(2.0F);
  EXPECT_NEAR(feature_entropy(std::vector<float>{log2, 0}),
              -(2.0 / 3 * std::log(2.0 / 3 + 1e-8) + 1.0 / 3 * std::log(1.0 / 3 + 1e-8)), 1e-7);
  EXPECT_EQ(patch_entropies(std::vector<float>{1, 1, 0, 9}.data(), 2, 2),
            (std::vector<double>{feature_entropy(std::vector<float>{1, 1}),
                                 feature_entropy(std::vector<float>{0, 9})}));
  // Large values do not overflow, and a shift of all changes nothing.
  EXPECT_NEAR(feature_entropy(std::vector<float>{1000, 1001, 1002}),
              feature_entropy(std::vector<float>{0, 1, 2}), 1e-9);
}

TEST(Cosine, ByHand) {
  EXPECT_DOUBLE_EQ(cosine(std::vector<float>{3, 4}, std::vector<float>{4, 3}), 24.0 / 25);
  EXPECT_EQ(cosine(std::vector<float>{0, 0}, std::vector<float>{4, 3}), 0);
}

TEST(Tokens, FollowTheFormula) {
  // The most relevant patch: floor(64 + 336 * 1 / (1 + 1e-8)) = 399.
  EXPECT_EQ(token_counts(std::vector<double>{0, 0.5, 1}, {}), (std::vector<int64_t>{64, 231, 399}));
  EXPECT_EQ(token_counts(std::vector<double>{2, 2, 2}, {}), (std::vector<int64_t>{64, 64, 64}));
  EXPECT_EQ(token_counts(std::vector<double>{-1, 3}, {1, 11}), (std::vector<int64_t>{1, 10}));
  EXPECT_TRUE(token_counts(std::vector<double>{}, {}).empty());
}

TEST(Tokens, SumToTheBudgetByHand) {
  // Wanted 64 and 400 (nearly); 232 of them in all: 64 stays at its bound, the rest goes to the other.
  EXPECT_EQ(token_counts(std::vector<double>{0, 1}, {}, 232), (std::vector<int64_t>{64, 168}));
  // Equal patches, a budget that does not divide: the first get the rest.
  EXPECT_EQ(token_counts(std::vector<double>{1, 1, 1}, {}, 302), (std::vector<int64_t>{101, 101, 100}));
  EXPECT_EQ(token_counts(std::vector<double>{0, 1}, {}, 128), (std::vector<int64_t>{64, 64}));
  EXPECT_EQ(token_counts(std::vector<double>{0, 1}, {}, 800), (std::vector<int64_t>{400, 400}));
  // Without a lower bound the least relevant patch gets what the others cannot take.
  EXPECT_EQ(token_counts(std::vector<double>{0, 1}, {0, 10}, 15), (std::vector<int64_t>{5, 10}));
}

TEST(Tokens, AnyBudgetIsMetWithinTheBoundsInTheOrderOfRelevance) {
  Random random(9, RandomStream::test, 0);
  for (int trial = 0; trial < 400; ++trial) {
    const auto patches = static_cast<int64_t>(1 + random.below(300));
    const auto min = static_cast<int64_t>(random.below(100)),
               max = min + static_cast<int64_t>(random.below(400));
    std::vector<double> relevance(static_cast<size_t>(patches));
    for (double& r : relevance) r = random.bernoulli(0.2) ? 0 : random.normal();
    const int64_t room = patches * (max - min);
    const int64_t budget =
        patches * min + (trial % 4 == 0 ? 0
                         : trial % 4 == 1
                             ? room
                             : static_cast<int64_t>(random.below(static_cast<uint64_t>(room + 1))));
    const auto tokens = token_counts(relevance, {min, max}, budget);
    ASSERT_EQ(sum_of(tokens), budget);
    ASSERT_GE(*std::min_element(tokens.begin(), tokens.end()), min);
    ASSERT_LE(*std::max_element(tokens.begin(), tokens.end()), max);
    for (size_t i = 0; i < tokens.size(); ++i)
      for (size_t j = 0; j < i; ++j) {
        // Rounding may put equal patches one apart, never a less relevant one above a more relevant one.
        ASSERT_TRUE(relevance[i] <= relevance[j] || tokens[i] >= tokens[j]) << i << " " << j;
        ASSERT_TRUE(relevance[i] != relevance[j] || std::abs(tokens[i] - tokens[j]) <= 1) << i << " " << j;
      }
  }
}

TEST(Tokens, ABudgetOutsideTheBoundsIsRefused) {
  for (const int64_t budget : {int64_t{191}, int64_t{1201}, int64_t{-1}}) {
    try {
      check_token_options(3, {}, budget);
      FAIL() << budget;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("--budget " + std::to_string(budget)), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("192 to 1200"), std::string::npos);
    }
  }
  EXPECT_THROW(check_token_options(3, {10, 9}, 0), UsageError);
  for (const int64_t budget : {int64_t{0}, int64_t{192}, int64_t{1200}})
    EXPECT_NO_THROW(check_token_options(3, {}, budget));
}

TEST(TokenShare, EqualTokensGiveTheObjectsShare) {
  const std::vector<double> mass = {1, 0.5, 0, 0};
  EXPECT_DOUBLE_EQ(token_share(std::vector<int64_t>{7, 7, 7, 7}, mass), 1.5 / 4);
  EXPECT_DOUBLE_EQ(token_share(std::vector<int64_t>{30, 10, 0, 0}, mass), 35.0 / 40);
  EXPECT_EQ(token_share(std::vector<int64_t>{0, 0, 0, 0}, mass), 0);
}

}  // namespace
}  // namespace dino
