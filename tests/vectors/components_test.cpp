// SPDX-License-Identifier: Apache-2.0
#include "vectors/components.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/random.hpp"

namespace dino {
namespace {

std::vector<Edge> random_edges(int64_t rows, int64_t count, uint64_t seed) {
  Random random(seed, RandomStream::test, 3);
  std::vector<Edge> edges;
  for (int64_t i = 0; i < count; ++i) {
    const auto a = static_cast<int64_t>(random.below(static_cast<uint64_t>(rows)));
    const auto b = static_cast<int64_t>(random.below(static_cast<uint64_t>(rows)));
    if (a != b) edges.push_back({std::min(a, b), std::max(a, b), 0.9f + 0.1f * random.uniform()});
  }
  return edges;
}

/// A path where each row is close to the next and the ends have nothing in common.
std::vector<Edge> chain(int64_t rows) {
  std::vector<Edge> edges;
  for (int64_t i = 0; i + 1 < rows; ++i) edges.push_back({i, i + 1, 0.9f});
  return edges;
}

TEST(Groups, ComponentsChainAndStarsDoNot) {
  const auto edges = chain(11);
  const auto components = group_rows(11, edges, GroupRule::components, {});
  EXPECT_EQ(components.count, 1);
  const auto stars = group_rows(11, edges, GroupRule::star, {});
  EXPECT_EQ(stars.count, 6);  // 0-1, 2-3, ..., 8-9, 10
  for (int64_t i = 0; i < 11; ++i) EXPECT_EQ(stars.representative[static_cast<size_t>(i)], i / 2 * 2);
}

TEST(Groups, ComponentsAgreeWithUnionFind) {
  const auto edges = random_edges(500, 300, 1);
  UnionFind forest(500);
  int64_t merges = 0;
  for (const Edge& edge : edges) merges += forest.merge(edge.source, edge.target) ? 1 : 0;
  const auto groups = group_rows(500, edges, GroupRule::components, {});
  EXPECT_EQ(groups.count, 500 - merges);
  for (int64_t i = 0; i < 500; ++i) EXPECT_EQ(groups.group[static_cast<size_t>(i)], forest.find(i));
}

TEST(Groups, EveryStarMemberHasAnEdgeToABetterCentre) {
  const auto edges = random_edges(400, 900, 2);
  std::vector<double> quality(400);
  Random random(3, RandomStream::test, 4);
  for (double& value : quality) value = std::floor(random.uniform(0, 5));
  const auto groups = group_rows(400, edges, GroupRule::star, quality);
  int64_t kept = 0;
  for (int64_t i = 0; i < 400; ++i) {
    const auto row = static_cast<size_t>(i);
    const int64_t centre = groups.representative[row];
    kept += groups.keep[row];
    EXPECT_EQ(groups.keep[row] != 0, centre == i);
    if (centre == i) {
      EXPECT_EQ(groups.similarity[row], 1.0f);
      continue;
    }
    EXPECT_EQ(groups.representative[static_cast<size_t>(centre)], centre);
    const double better = quality[static_cast<size_t>(centre)];
    EXPECT_TRUE(better > quality[row] || (better == quality[row] && centre < i));
    bool tied = false;
    for (const Edge& edge : edges)
      tied |= edge.source == std::min(i, centre) && edge.target == std::max(i, centre) &&
              edge.similarity == groups.similarity[row];
    EXPECT_TRUE(tied) << i;
  }
  EXPECT_EQ(kept, groups.count);
  // No two centres are near-duplicates of each other.
  for (const Edge& edge : edges)
    EXPECT_FALSE(groups.keep[static_cast<size_t>(edge.source)] != 0 &&
                 groups.keep[static_cast<size_t>(edge.target)] != 0);
}

TEST(Groups, GroupIsTheSmallestMember) {
  const std::vector<Edge> edges{{1, 4, 0.95f}, {4, 6, 0.96f}};
  const std::vector<double> quality{0, 0, 0, 0, 0, 0, 9};
  const auto groups = group_rows(7, edges, GroupRule::components, quality);
  EXPECT_EQ(groups.representative[1], 6);
  EXPECT_EQ(groups.group[6], 1);
  EXPECT_EQ(groups.similarity[4], 0.96f);  // a direct edge
  EXPECT_EQ(groups.similarity[1], 0.95f);  // the weakest edge of the path 6-4-1
  EXPECT_EQ(groups.count, 5);
  const auto stars = group_rows(7, edges, GroupRule::star, quality);
  EXPECT_EQ(stars.representative[4], 6);
  EXPECT_EQ(stars.representative[1], 1);
}

TEST(Groups, WithoutEdgesAllAreKept) {
  const auto groups = group_rows(3, {}, GroupRule::star, {});
  EXPECT_EQ(groups.count, 3);
  EXPECT_EQ(groups.group, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(group_rows(0, {}, GroupRule::components, {}).count, 0);
}

TEST(UnionFind, RootIsTheSmallest) {
  UnionFind forest(100000);
  for (int64_t i = 99999; i > 0; --i) EXPECT_TRUE(forest.merge(i, i - 1));
  EXPECT_EQ(forest.find(99999), 0);
  EXPECT_FALSE(forest.merge(5, 70000));
}

}  // namespace
}  // namespace dino
