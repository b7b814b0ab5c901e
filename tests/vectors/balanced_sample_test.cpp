// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "base/error.hpp"
#include "base/random.hpp"
#include "vectors/kmeans.hpp"

namespace dino {
namespace {

struct Tree {
  std::vector<std::vector<int64_t>> assignments;
  std::vector<int64_t> clusters;
};

/// Skewed sizes; some clusters are empty and some rows are not available.
Tree random_tree(int64_t rows, const std::vector<int64_t>& levels, uint64_t seed) {
  Random random(seed, RandomStream::test, 5);
  Tree tree;
  int64_t below = rows;
  for (const int64_t clusters : levels) {
    std::vector<int64_t> parent(static_cast<size_t>(below));
    for (int64_t& p : parent) {
      const double u = random.uniform_double();
      p = static_cast<int64_t>(u * u * u * static_cast<double>(clusters));
      if (tree.assignments.empty() && random.bernoulli(0.05)) p = -1;
    }
    tree.assignments.push_back(parent);
    tree.clusters.push_back(clusters);
    below = clusters;
  }
  return tree;
}

/// Rows below a node of a level (0 = rows).
int64_t rows_below(const Tree& tree, size_t level, int64_t node) {
  if (level == 0) return 1;
  int64_t sum = 0;
  const auto& parent = tree.assignments[level - 1];
  for (size_t i = 0; i < parent.size(); ++i) {
    if (parent[i] == node) sum += rows_below(tree, level - 1, static_cast<int64_t>(i));
  }
  return sum;
}

/// The definition, one unit at a time: everybody gets one more while all that can take one fit.
void check_node(const Tree& tree, const std::vector<std::vector<int64_t>>& taken, size_t level,
                const std::vector<int64_t>& children, int64_t quota) {
  std::vector<int64_t> sizes;
  for (const int64_t child : children) sizes.push_back(rows_below(tree, level, child));
  int64_t cap = 0;
  const auto given = [&](int64_t c) {
    return std::accumulate(sizes.begin(), sizes.end(), int64_t{0},
                           [&](int64_t sum, int64_t size) { return sum + std::min(c, size); });
  };
  const int64_t largest = sizes.empty() ? 0 : *std::max_element(sizes.begin(), sizes.end());
  while (cap < largest && given(cap + 1) <= quota) ++cap;
  int64_t extra = quota - given(cap), extras = 0;
  for (size_t i = 0; i < children.size(); ++i) {
    const int64_t got = taken[level][static_cast<size_t>(children[i])], base = std::min(cap, sizes[i]);
    EXPECT_TRUE(got == base || (got == base + 1 && sizes[i] > cap))
        << got << " of " << sizes[i] << " cap " << cap;
    extras += got - base;
  }
  EXPECT_EQ(extras, extra);
}

TEST(BalancedSample, FollowsTheDefinitionAtEveryNode) {
  const Tree tree = random_tree(3000, {60, 12, 4}, 1);
  const int64_t available = 3000 - std::count(tree.assignments[0].begin(), tree.assignments[0].end(), -1);
  for (const int64_t target : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{500}, int64_t{1999}, available}) {
    const auto selected =
        balanced_sample(tree.assignments, tree.clusters, {}, target, SampleStrategy::random, 3);
    ASSERT_EQ(static_cast<int64_t>(selected.size()), target);
    EXPECT_TRUE(std::is_sorted(selected.begin(), selected.end()));
    EXPECT_EQ(std::adjacent_find(selected.begin(), selected.end()), selected.end());
    // How many were taken below each node of each level.
    std::vector<std::vector<int64_t>> taken{std::vector<int64_t>(3000, 0)};
    for (const int64_t row : selected) taken[0][static_cast<size_t>(row)] = 1;
    for (size_t level = 0; level < tree.clusters.size(); ++level) {
      std::vector<int64_t> sums(static_cast<size_t>(tree.clusters[level]), 0);
      for (size_t i = 0; i < tree.assignments[level].size(); ++i) {
        const int64_t parent = tree.assignments[level][i];
        if (parent < 0)
          EXPECT_EQ(taken[level][i], 0);
        else
          sums[static_cast<size_t>(parent)] += taken[level][i];
      }
      taken.push_back(sums);
    }
    std::vector<int64_t> top(4);
    std::iota(top.begin(), top.end(), 0);
    check_node(tree, taken, 3, top, target);
    for (size_t level = 3; level > 0; --level) {
      for (int64_t node = 0; node < tree.clusters[level - 1]; ++node) {
        std::vector<int64_t> children;
        for (size_t i = 0; i < tree.assignments[level - 1].size(); ++i) {
          if (tree.assignments[level - 1][i] == node) children.push_back(static_cast<int64_t>(i));
        }
        check_node(tree, taken, level - 1, children, taken[level][static_cast<size_t>(node)]);
      }
    }
  }
}

TEST(BalancedSample, ClosestTakesTheSmallestDistances) {
  const std::vector<int64_t> parent{0, 0, 0, 0, 1, 1, 1, 1};
  const std::vector<float> distance{4, 3, 2, 1, 1, 1, 0, 9};
  const auto selected = balanced_sample({parent}, {2}, distance, 4, SampleStrategy::closest, 0);
  EXPECT_EQ(selected, (std::vector<int64_t>{2, 3, 4, 6}));
}

TEST(BalancedSample, SeedsDifferAndRepeat) {
  const Tree tree = random_tree(1000, {20}, 2);
  const auto draw = [&](uint64_t seed) {
    return balanced_sample(tree.assignments, tree.clusters, {}, 200, SampleStrategy::random, seed);
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(BalancedSample, ShortfallsAndBrokenTreesAreNamed) {
  const Tree tree = random_tree(100, {5}, 3);
  try {
    (void)balanced_sample(tree.assignments, tree.clusters, {}, 101, SampleStrategy::random, 0);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("too few"), std::string::npos) << error.what();
  }
  EXPECT_THROW((void)balanced_sample({{0, 5}}, {5}, {}, 1, SampleStrategy::random, 0), DataError);
  EXPECT_THROW((void)balanced_sample({{0, -2}}, {5}, {}, 1, SampleStrategy::random, 0), DataError);
  EXPECT_THROW((void)balanced_sample({{0, 1}, {0}}, {2, 1}, {}, 1, SampleStrategy::random, 0), DataError);
}

}  // namespace
}  // namespace dino
