// SPDX-License-Identifier: Apache-2.0
#include "vectors/neighbours.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/cpu.hpp"
#include "base/error.hpp"
#include "exact/int8_products.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/byte_rows.hpp"
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

/// Rows that are hard to tell apart, or to round: what a search by bytes must get right in spite of its
/// bounds.
std::vector<float> hard_rows(const std::string& kind, int64_t rows, int64_t width, uint64_t seed) {
  auto x = unit_rows({.rows = rows, .width = width, .subspace = std::min<int64_t>(width, 8)}, seed);
  Random random(seed, RandomStream::test, 7);
  for (int64_t i = 0; i < rows; ++i) {
    float* row = x.data() + i * width;
    for (int64_t j = 0; j < width; ++j) {
      if (kind == "near ties")  // all of one row, a unit in the last place apart
        row[j] = std::nextafter(x[static_cast<size_t>(j)], random.bernoulli(0.5) ? 2.0F : -2.0F);
      else if (kind == "copies")
        row[j] = x[static_cast<size_t>(i % 5 * width + j)];
      else if (kind == "far from zero")
        row[j] = 100 + 0.001F * row[j];
      else if (kind == "sizes")
        row[j] *= std::pow(10.0F, static_cast<float>(i % 13 - 6));
      else if (kind == "sparse" && j != i % width)
        row[j] = 0;
      else if (kind == "zeros" && i % 3 != 0)
        row[j] = 0;
      else if (kind == "tiny")
        row[j] *= 1e-38F;
      else if (kind == "huge")
        row[j] *= 1e18F;
    }
  }
  return x;
}

const char* const kHardKinds[] = {"plain",  "near ties", "copies", "far from zero", "sizes",
                                  "sparse", "zeros",     "tiny",   "huge"};

/// Runs `check` at every level that multiplies bytes.
template <class Check>
void at_levels_with_bytes(const Check& check) {
  for (const CpuLevel level : available_cpu_levels()) {
    set_cpu_level(level);
    if (exact::int8_unit() == exact::Int8Unit::none) continue;
    SCOPED_TRACE(cpu_level_name(level));
    check();
  }
  set_cpu_level(available_cpu_levels().back());
}

TEST(Nearest, ByBytesAreTheSameBytesAsByFloats) {
  at_levels_with_bytes([] {
    for (const char* kind : kHardKinds)
      for (const int64_t width : {1, 20, 96, 200}) {
        SCOPED_TRACE(std::string(kind) + ", " + std::to_string(width));
        const auto bank = hard_rows(kind, 1300, width, 3);
        auto queries = hard_rows(kind, 70, width, 4);
        std::copy_n(bank.begin(), 20 * width, queries.begin());
        for (const int64_t k : {1, 10, 1300}) {
          const auto floats = nearest(view(bank, width), view(queries, width), k, NeighbourSearchBy::floats);
          const auto bytes = nearest(view(bank, width), view(queries, width), k, NeighbourSearchBy::bytes);
          ASSERT_EQ(floats.index, bytes.index) << k;
          ASSERT_EQ(floats.similarity, bytes.similarity) << k;
        }
      }
  });
}

TEST(Nearest, APartOfTheBankAtATimeChangesNothing) {
  const auto bank = unit_rows({.rows = 40000, .width = 24, .subspace = 6}, 5);
  const auto queries = unit_rows({.rows = 600, .width = 24, .subspace = 6}, 6);
  const auto whole = nearest(view(bank, 24), view(queries, 24), 10, NeighbourSearchBy::floats);
  for (const int64_t piece : {7001, 20000}) {
    NeighbourSearch search(view(queries, 24), 10);
    for (int64_t begin = 0; begin < 40000; begin += piece)
      search.add(view_of(bank.data() + begin * 24, {std::min(piece, 40000 - begin), 24}));
    const Neighbours found = search.finish();
    EXPECT_EQ(found.index, whole.index);
    EXPECT_EQ(found.similarity, whole.similarity);
  }
  NeighbourSearch few(view(queries, 24), 10);
  few.add(view_of(bank.data(), {9, 24}));
  EXPECT_THROW((void)few.finish(), UsageError);
}

TEST(Nearest, ByBytesFewOrderedProductsRemain) {
  at_levels_with_bytes([] {
    const auto bank = unit_rows({.rows = 8000, .width = 128, .subspace = 60}, 8);
    const auto queries = unit_rows({.rows = 200, .width = 128, .subspace = 60}, 9);
    NeighbourSearch search(view(queries, 128), 10, NeighbourSearchBy::bytes);
    search.add(view(bank, 128));
    EXPECT_LT(search.ordered_products(), 200 * 8000 / 10);
    EXPECT_GE(search.ordered_products(), 200 * 10);
  });
}

/// The bounds themselves: with a similarity just reached, no row may be excluded.
TEST(ByteRows, NoBoundIsBelowTheOrderedProduct) {
  if (exact::int8_unit() == exact::Int8Unit::none) GTEST_SKIP() << "no unit for bytes";
  for (const char* kind : kHardKinds)
    for (const int64_t width : {1, 20, 200}) {
      SCOPED_TRACE(std::string(kind) + ", " + std::to_string(width));
      const auto rows = hard_rows(kind, 300, width, 3), asked = hard_rows(kind, 32, width, 4);
      const EvenRotation rotation(width);
      const float* centre = rows.data();
      ByteQueries queries;
      queries.round(rotation, asked.data(), 32, width, centre);
      ByteBank bank;
      bank.round(rotation, rows.data(), 300, width, centre, exact::rounding_of(width), queries.scale);
      std::vector<int32_t> products(32 * ByteBank::kBlock);
      for (int64_t b = 0; b < 2; ++b) {
        exact::int8_products(32, ByteBank::kBlock, rotation.depth(), queries.bytes.data(),
                             bank.bytes.data() + b * ByteBank::kBlock * rotation.depth(),
                             bank.start.data() + b * ByteBank::kBlock, products.data());
        const ByteBank::Block& block = bank.blocks[static_cast<size_t>(b)];
        for (int64_t i = 0; i < 32; ++i)
          for (int64_t j = 0; j < ByteBank::kBlock; ++j) {
            const int32_t product = products[static_cast<size_t>(i * ByteBank::kBlock + j)];
            const int64_t row = b * ByteBank::kBlock + j;
            if (row >= 300) {
              ASSERT_LT(product, queries.limit(i, block, -1e30));
              continue;
            }
            const float similarity =
                exact::ordered_dot(asked.data() + i * width, rows.data() + row * width, width);
            ASSERT_GE(product, queries.limit(i, block, static_cast<double>(similarity))) << i << ", " << row;
            ASSERT_GE(queries.bound(i, block, product), static_cast<double>(similarity)) << i << ", " << row;
          }
      }
    }
}

TEST(ByteRows, TheRotationKeepsInnerProducts) {
  for (const int64_t width : {1, 3, 64, 100, 384, 768}) {
    const auto x = unit_rows({.rows = 2, .width = width, .subspace = std::min<int64_t>(width, 8)}, 1);
    const EvenRotation rotation(width);
    std::vector<float> a(static_cast<size_t>(rotation.depth())), b(a.size());
    rotation.apply(x.data(), nullptr, a.data());
    rotation.apply(x.data() + width, nullptr, b.data());
    const double turned = std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
    EXPECT_NEAR(turned, std::inner_product(x.begin(), x.begin() + width, x.begin() + width, 0.0), 1e-6);
    EXPECT_EQ(rotation.depth() % exact::kInt8Depth, 0);
  }
}

TEST(VoteVerdicts, SayWhatTheScoresSay) {
  Random random(3, RandomStream::test, 0);
  constexpr int64_t kRows = 300, kQueries = 200, kClasses = 9;
  Neighbours neighbours;
  neighbours.k = 20;
  std::vector<int32_t> labels, truth;
  for (int64_t i = 0; i < kRows; ++i) labels.push_back(static_cast<int32_t>(random.below(kClasses + 2)) - 1);
  for (int64_t q = 0; q < kQueries; ++q) {
    truth.push_back(static_cast<int32_t>(random.below(kClasses + 2)) - 1);
    for (int64_t j = 0; j < 20; ++j) {
      neighbours.index.push_back(static_cast<int64_t>(random.below(kRows)));
      // Many are equal, so that votes tie.
      neighbours.similarity.push_back(0.9F - 0.1F * static_cast<float>(j / 7));
    }
  }
  const std::vector<int64_t> ks = {20, 1, 6};
  const auto verdicts = vote_verdicts(neighbours, labels, kClasses, ks, 0.07, truth);
  for (size_t i = 0; i < ks.size(); ++i) {
    const auto scores = weighted_vote(neighbours, labels, kClasses, ks[i], 0.07);
    for (int64_t q = 0; q < kQueries; ++q) {
      const float* row = scores.data() + q * kClasses;
      const auto query = static_cast<size_t>(q);
      EXPECT_EQ(verdicts[i].first[query], std::max_element(row, row + kClasses) - row);
      int32_t before = -1;
      const int32_t t = truth[query];
      if (t >= 0 && t < kClasses && row[t] > 0) {
        before = 0;
        for (int32_t c = 0; c < kClasses; ++c)
          before += row[c] > row[t] || (row[c] == row[t] && c < t) ? 1 : 0;
      }
      EXPECT_EQ(verdicts[i].before[query], before) << ks[i] << " " << q;
    }
  }
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
