// SPDX-License-Identifier: Apache-2.0
#include "vectors/similarities.hpp"

#include <gtest/gtest.h>

#include <atomic>

#include "base/error.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/synthetic.hpp"

namespace dino {
namespace {

using synthetic::unit_rows;
using synthetic::view;

TEST(SimilarityRows, AreTheProductsOfEveryPair) {
  const auto bank = unit_rows({.rows = 1030, .width = 20, .subspace = 5}, 21),
             queries = unit_rows({.rows = 37, .width = 20, .subspace = 5}, 22);
  std::vector<std::atomic<int>> seen(37);
  for_each_similarity_row(view(bank, 20), view(queries, 20), [&](int64_t q, std::span<const float> row) {
    ++seen[static_cast<size_t>(q)];
    ASSERT_EQ(row.size(), 1030U);
    for (int64_t i = 0; i < 1030; ++i)
      ASSERT_EQ(row[static_cast<size_t>(i)],
                exact::ordered_dot(queries.data() + q * 20, bank.data() + i * 20, 20));
  });
  for (const auto& count : seen) EXPECT_EQ(count, 1);
  EXPECT_THROW(for_each_similarity_row(view(bank, 20), view(queries, 20),
                                       [](int64_t q, std::span<const float>) {
                                         if (q == 30) throw DataError("thirty");
                                       }),
               DataError);
}

}  // namespace
}  // namespace dino
