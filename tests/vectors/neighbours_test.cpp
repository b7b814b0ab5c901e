// SPDX-License-Identifier: Apache-2.0
#include "vectors/neighbours.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/error.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/synthetic.hpp"

namespace dino {
namespace {

using synthetic::unit_rows;
using synthetic::view;

TEST(Nearest, EqualsAFullSort) {
  auto bank = unit_rows({.rows = 1100, .width = 20, .subspace = 5}, 21);
  std::copy_n(bank.begin(), 20, bank.begin() + 700 * 20);  // equal rows: the smaller index comes first
  const auto queries = unit_rows({.rows = 150, .width = 20, .subspace = 5}, 21);
  for (const int64_t k : {1, 7, 1100}) {
    const auto found = nearest(view(bank, 20), view(queries, 20), k);
    for (int64_t q = 0; q < 150; q += 13) {
      std::vector<float> similarity(1100);
      for (int64_t i = 0; i < 1100; ++i)
        similarity[static_cast<size_t>(i)] =
            exact::ordered_dot(queries.data() + q * 20, bank.data() + i * 20, 20);
      std::vector<int64_t> order(1100);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return similarity[static_cast<size_t>(a)] > similarity[static_cast<size_t>(b)];
      });
      for (int64_t j = 0; j < k; ++j) {
        const auto at = static_cast<size_t>(q * k + j);
        ASSERT_EQ(found.index[at], order[static_cast<size_t>(j)]) << k << " " << q << " " << j;
        ASSERT_EQ(found.similarity[at], similarity[static_cast<size_t>(order[static_cast<size_t>(j)])]);
      }
    }
  }
  EXPECT_THROW((void)nearest(view(bank, 20), view(queries, 20), 1101), UsageError);
  EXPECT_THROW((void)nearest(view(bank, 20), view(queries, 10), 3), DataError);
}

TEST(WeightedVote, NormalisesOverAllNeighbours) {
  Neighbours neighbours;
  neighbours.k = 3;
  neighbours.index = {2, 0, 1};
  neighbours.similarity = {0.9f, 0.9f, 0.9f};
  const std::vector<int32_t> labels{1, -1, 0};
  const auto two = weighted_vote(neighbours, labels, 2, 2, 0.07);
  EXPECT_NEAR(two[0], 1.0 / 3, 1e-7);
  EXPECT_NEAR(two[1], 1.0 / 3, 1e-7);
  const auto three = weighted_vote(neighbours, labels, 2, 3, 0.07);
  EXPECT_EQ(three, two);  // a neighbour without a label does not vote
}

}  // namespace
}  // namespace dino
