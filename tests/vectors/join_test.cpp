// SPDX-License-Identifier: Apache-2.0
#include "vectors/join.hpp"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>

#include "base/cpu.hpp"
#include "base/error.hpp"
#include "exact/chains.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/leading.hpp"
#include "vectors/lists.hpp"
#include "vectors/synthetic.hpp"

namespace dino {
namespace {

using synthetic::unit_rows;
using synthetic::view;

bool same(const std::vector<Edge>& a, const std::vector<Edge>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](const Edge& x, const Edge& y) {
           return x.source == y.source && x.target == y.target && x.similarity == y.similarity;
         });
}

bool contains(const std::vector<Edge>& all, const Edge& edge) {
  return std::any_of(all.begin(), all.end(), [&](const Edge& other) {
    return other.source == edge.source && other.target == edge.target && other.similarity == edge.similarity;
  });
}

JoinResult join(const std::vector<float>& rows, int64_t width, const JoinConfig& config) {
  const auto all = view(rows, width);
  return threshold_self_join(all, all.dim(0), config, Communicator::self());
}

TEST(Join, AllListsProbedGiveTheExhaustiveEdges) {
  const auto rows = unit_rows({.rows = 900, .width = 128, .sources = 40, .copies = 4}, 1);
  JoinConfig config;
  config.lists = config.probes = 12;
  for (const double threshold : {0.5, 0.8, 0.95}) {
    config.threshold = threshold;
    const auto expected = brute_force_join(view(rows, 128), threshold);
    ASSERT_FALSE(expected.empty());
    EXPECT_TRUE(same(join(rows, 128, config).edges, expected)) << threshold;
  }
}

TEST(Join, OneListIsExhaustiveToo) {
  for (const int64_t width : {5, 33, 64, 130}) {
    const auto rows = unit_rows({.rows = 601, .width = width, .subspace = 4, .sources = 30, .copies = 3}, 2);
    JoinConfig config;
    config.threshold = 0.9;
    const auto result = join(rows, width, config);
    EXPECT_EQ(result.lists, 1);
    EXPECT_TRUE(same(result.edges, brute_force_join(view(rows, width), 0.9))) << width;
  }
}

TEST(Join, TheBoundCutsOnLowDimensionalDataAndChangesNothing) {
  const auto rows = unit_rows({.rows = 1500, .width = 256, .subspace = 16, .sources = 100, .copies = 3}, 3);
  const auto basis = LeadingBasis::fit(rows.data(), 1500, 256);
  ASSERT_TRUE(basis.cuts());
  ASSERT_LE(basis.kept, 64);
  JoinConfig config;
  config.threshold = 0.96;
  EXPECT_TRUE(same(join(rows, 256, config).edges, brute_force_join(view(rows, 256), 0.96)));
}

/// Rows without structure, and a few of them twice.
std::vector<float> isotropic_rows(int64_t rows, int64_t width, int64_t twice, uint64_t seed) {
  Random random(seed, RandomStream::test, 2);
  std::vector<float> values(static_cast<size_t>(rows * width));
  for (float& value : values) value = static_cast<float>(random.normal());
  std::copy_n(values.begin(), twice * width, values.begin() + (rows - twice) * width);
  normalize_rows(values.data(), rows, width);
  return values;
}

TEST(Join, ALowThresholdOnFullDimensionalDataGoesWithoutTheBound) {
  const auto rows = isotropic_rows(400, 64, 1, 5);
  ASSERT_FALSE(LeadingBasis::fit_join(rows.data(), 400, 64, 0.2, 0.06).cuts());
  JoinConfig config;
  config.threshold = 0.2;
  EXPECT_TRUE(same(join(rows, 64, config).edges, brute_force_join(view(rows, 64), 0.2)));
}

TEST(Join, AHighThresholdUsesTheBoundOnFullDimensionalDataToo) {
  const auto rows = isotropic_rows(600, 256, 40, 6);
  ASSERT_FALSE(LeadingBasis::fit(rows.data(), 600, 256).cuts());
  ASSERT_EQ(LeadingBasis::fit_join(rows.data(), 600, 256, 0.97, 0.01).kept, 32);
  JoinConfig config;
  config.threshold = 0.97;
  const auto expected = brute_force_join(view(rows, 256), 0.97);
  ASSERT_EQ(expected.size(), 40u);
  EXPECT_TRUE(same(join(rows, 256, config).edges, expected));
}

TEST(Join, MissesNothingAmongSomeThousandsOfRowsWithoutStructure) {
  auto rows = isotropic_rows(6000, 64, 0, 15);
  Random random(15, RandomStream::test, 3);
  for (int64_t i = 0; i < 600 * 64; ++i)  // near copies at cosines about the threshold
    rows[static_cast<size_t>(i)] =
        rows[static_cast<size_t>(i + 3000 * 64)] + static_cast<float>(0.04 * random.normal());
  normalize_rows(rows.data(), 6000, 64);
  const auto expected = brute_force_join(view(rows, 64), 0.95);
  ASSERT_GT(expected.size(), 100u);
  ASSERT_LT(expected.size(), 600u);
  EXPECT_TRUE(same(join(rows, 64, {}).edges, expected));
}

TEST(Join, FindsPlantedCopiesAtThreeProbes) {
  const auto rows = unit_rows({.rows = 5500, .width = 64, .clusters = 60, .sources = 400, .copies = 4}, 4);
  JoinConfig config;
  config.threshold = 0.95;
  config.lists = 80;
  config.probes = 3;
  const auto result = join(rows, 64, config);
  const auto expected = brute_force_join(view(rows, 64), 0.95);
  ASSERT_GT(expected.size(), 1600u);
  EXPECT_GE(static_cast<double>(result.edges.size()), 0.99 * static_cast<double>(expected.size()));
  for (size_t i = 0; i < result.edges.size(); i += 37) EXPECT_TRUE(contains(expected, result.edges[i]));
  EXPECT_TRUE(std::is_sorted(result.edges.begin(), result.edges.end(), [](const Edge& a, const Edge& b) {
    return a.source != b.source ? a.source < b.source : a.target < b.target;
  }));
}

TEST(Join, MoreProbesNeverLoseAnEdge) {
  const auto rows = unit_rows({.rows = 1200, .width = 64, .clusters = 5, .sources = 50, .copies = 3}, 6);
  JoinConfig config;
  config.threshold = 0.7;
  config.lists = 16;
  size_t before = 0;
  for (const int64_t probes : {1, 2, 4, 16}) {
    config.probes = probes;
    const auto found = join(rows, 64, config).edges;
    EXPECT_GT(found.size(), before) << probes;
    before = found.size();
  }
  EXPECT_EQ(before, brute_force_join(view(rows, 64), 0.7).size());
}

TEST(Join, ThreadsDoNotChangeTheEdges) {
  const auto rows = unit_rows({.rows = 3000, .width = 128, .clusters = 30, .sources = 100, .copies = 3}, 7);
  JoinConfig config;
  config.lists = 40;
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = join(rows, 128, config);
  omp_set_num_threads(3);
  const auto three = join(rows, 128, config);
  omp_set_num_threads(threads);
  ASSERT_FALSE(one.edges.empty());
  EXPECT_TRUE(same(one.edges, three.edges));
}

TEST(Join, CpuLevelsDoNotChangeTheEdges) {
  const auto rows = unit_rows({.rows = 1000, .width = 128, .clusters = 30, .sources = 60, .copies = 3}, 10);
  JoinConfig config;
  config.lists = 12;
  const CpuLevel before = cpu_level();
  std::vector<Edge> expected;
  for (const CpuLevel level : available_cpu_levels()) {
    set_cpu_level(level);
    const auto found = join(rows, 128, config).edges;
    ASSERT_FALSE(found.empty());
    if (expected.empty()) expected = found;
    EXPECT_TRUE(same(found, expected)) << cpu_level_name(level);
  }
  set_cpu_level(before);
}

// Dimensions that fill no vector, and data that lists do not help with: everything is found all the same.
TEST(Join, OddWidthsAndFlatDataGiveTheExhaustiveEdges) {
  for (const int64_t width : {1, 3, 100}) {
    const auto rows = isotropic_rows(500, width, 50, 11);
    for (const double threshold : {0.6, 1.0}) {
      JoinConfig config;
      config.threshold = threshold;
      config.lists = config.probes = 10;
      const auto expected = brute_force_join(view(rows, width), threshold);
      ASSERT_FALSE(width < 100 && expected.empty());
      EXPECT_TRUE(same(join(rows, width, config).edges, expected)) << width << " " << threshold;
    }
  }
}

// Most rows are one and the same, so that most lists are trained on it and tie for it.
TEST(Join, ManyEqualRowsMeetInOneList) {
  auto rows = unit_rows({.rows = 800, .width = 96, .subspace = 12, .clusters = 40}, 12);
  for (int64_t i = 0; i < 400; ++i) std::copy_n(rows.begin(), 96, rows.begin() + i * 96);
  JoinConfig config;
  config.lists = 60;
  config.threshold = 0.999;
  const auto expected = brute_force_join(view(rows, 96), 0.999);
  ASSERT_GE(expected.size(), 400u * 399u / 2u);
  const CpuLevel before = cpu_level();
  for (const CpuLevel level : available_cpu_levels()) {
    set_cpu_level(level);
    EXPECT_TRUE(same(join(rows, 96, config).edges, expected)) << cpu_level_name(level);
  }
  set_cpu_level(before);
}

TEST(Lists, AreThoseOfLargestOrderedProductAndTiesGoToTheSmaller) {
  constexpr int64_t kWidth = 40, kCentroids = 300, kProbes = 3;
  const auto rows = isotropic_rows(330, kWidth, 0, 13);
  auto centroids = isotropic_rows(kCentroids, kWidth, 20, 14);  // the last 20 equal the first 20
  for (int64_t k = 0; k < kWidth; ++k)                          // and one all but equals another
    centroids[static_cast<size_t>(100 * kWidth + k)] = centroids[static_cast<size_t>(50 * kWidth + k)];
  centroids[100 * kWidth] = std::nextafter(centroids[100 * kWidth], 2.0f);
  auto queries = rows;
  std::copy_n(centroids.begin(), 20 * kWidth, queries.begin());
  std::copy_n(centroids.begin() + 50 * kWidth, kWidth, queries.begin() + 20 * kWidth);
  std::fill_n(queries.begin() + 21 * kWidth, kWidth, 0.0f);  // ties everywhere
  const CpuLevel before = cpu_level();
  for (const CpuLevel level : available_cpu_levels()) {
    set_cpu_level(level);
    const auto found = nearest_lists(queries.data(), 330, kWidth, kWidth, centroids, kProbes);
    for (int64_t i = 0; i < 330; ++i) {
      std::vector<std::pair<float, int32_t>> all;
      for (int32_t c = 0; c < kCentroids; ++c)
        all.emplace_back(
            -exact::ordered_dot(queries.data() + i * kWidth, centroids.data() + c * kWidth, kWidth), c);
      std::sort(all.begin(), all.end());
      for (int64_t p = 0; p < kProbes; ++p) {
        const auto at = static_cast<size_t>(i * kProbes + p);
        ASSERT_EQ(found.list[at], all[static_cast<size_t>(p)].second) << i << " at " << cpu_level_name(level);
        ASSERT_NEAR(found.product[at], -all[static_cast<size_t>(p)].first, 1e-5);
      }
    }
  }
  set_cpu_level(before);
}

TEST(Join, IdenticalAndZeroRowsAreHandled) {
  std::vector<float> rows(300 * 64, 0);
  for (size_t i = 0; i < 200; ++i) rows[i * 64 + 3] = 1;  // the last 100 rows are zero
  JoinConfig config;
  config.lists = 8;
  config.threshold = 1;
  EXPECT_EQ(join(rows, 64, config).edges.size(), 200u * 199u / 2u);
}

TEST(Join, TheLimitCountsPairsThatReachTheThresholdOnce) {
  const auto rows = isotropic_rows(600, 256, 40, 6);
  for (const int64_t lists : {1, 8}) {
    JoinConfig config;
    config.threshold = 0.97;
    config.lists = config.probes = lists;
    config.max_edges = 40;
    EXPECT_EQ(join(rows, 256, config).edges.size(), 40u) << lists;
    config.max_edges = 39;
    EXPECT_THROW((void)join(rows, 256, config), DataError) << lists;
  }
}

TEST(Join, TooManyPairsAndBadSettingsAreErrors) {
  std::vector<float> rows(300 * 16, 0.25f);
  JoinConfig config;
  config.max_edges = 1000;
  EXPECT_THROW((void)join(rows, 16, config), DataError);
  config = {};
  for (const double threshold : {0.0, 1.5, -1.0, std::nan("")}) {
    config.threshold = threshold;
    EXPECT_THROW((void)join(rows, 16, config), UsageError) << threshold;
  }
  config = {};
  config.lists = 301;
  EXPECT_THROW((void)join(rows, 16, config), UsageError);
  config = {};
  config.probes = 0;
  EXPECT_THROW((void)join(rows, 16, config), UsageError);
}

TEST(Join, EmptyAndSingleRowInputs) {
  const std::vector<float> one(16, 0.25f);
  EXPECT_TRUE(join(one, 16, {}).edges.empty());
  EXPECT_TRUE(threshold_self_join(ConstTensorView{nullptr, Shape{0, 16}, DType::f32, Device{}}, 0, {},
                                  Communicator::self())
                  .edges.empty());
}

TEST(CrossJoin, IsTheSelfJoinAcrossTheTwoParts) {
  const auto rows = unit_rows({.rows = 700, .width = 48, .subspace = 8, .sources = 60, .copies = 3}, 8);
  const auto all = view(rows, 48);
  const auto found = threshold_cross_join(all.rows(0, 500), 1000, all.rows(500, 200), 0.9);
  std::vector<Edge> expected;
  for (const Edge& edge : brute_force_join(all, 0.9)) {
    if (edge.source < 500 && edge.target >= 500)
      expected.push_back({edge.source + 1000, edge.target - 500, edge.similarity});
  }
  ASSERT_FALSE(expected.empty());
  EXPECT_TRUE(same(found, expected));
}

TEST(LeadingBasis, BoundsEveryProduct) {
  const auto rows = unit_rows({.rows = 300, .width = 160, .subspace = 12}, 9);
  const auto basis = LeadingBasis::fit(rows.data(), 300, 160);
  ASSERT_TRUE(basis.cuts());
  const int64_t stride = basis.kept + 1;
  std::vector<float> keys(static_cast<size_t>(300 * stride));
  basis.project(rows.data(), 300, keys.data(), stride);
  double loosest = 0;
  for (int64_t i = 0; i < 300; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      double exact = 0, bound = 0;
      for (int64_t k = 0; k < 160; ++k)
        exact += static_cast<double>(rows[static_cast<size_t>(i * 160 + k)]) *
                 static_cast<double>(rows[static_cast<size_t>(j * 160 + k)]);
      for (int64_t k = 0; k < stride; ++k)
        bound += static_cast<double>(keys[static_cast<size_t>(i * stride + k)]) *
                 static_cast<double>(keys[static_cast<size_t>(j * stride + k)]);
      ASSERT_LE(exact, bound + basis.rounding());
      loosest = std::max(loosest, bound - exact);
    }
  }
  EXPECT_LT(loosest, 0.1);  // and tight enough to be of use
}

TEST(StratifiedRows, AreDistinctAscendingAndSpread) {
  for (const auto& [total, count] :
       {std::pair<int64_t, int64_t>{1000, 1000}, {1001, 100}, {7, 3}, {1, 1}, {5, 0}}) {
    const auto rows = stratified_rows(total, count, 3, 1);
    ASSERT_EQ(static_cast<int64_t>(rows.size()), count);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_GE(rows[i], i == 0 ? 0 : rows[i - 1] + 1);
      EXPECT_LT(rows[i], total);
    }
  }
  EXPECT_NE(stratified_rows(100000, 50, 3, 1), stratified_rows(100000, 50, 4, 1));
}

/// Rows of any finite size have the pairs of their directions.
TEST(Join, RowsOfAnySizeAreJoinedByTheirDirection) {
  constexpr int64_t kWidth = 64;
  auto rows = unit_rows({.rows = 900, .width = kWidth, .sources = 60, .copies = 2}, 8);
  JoinConfig config;
  config.threshold = 0.9;
  config.lists = 12;
  config.probes = 12;
  const auto expected = threshold_self_join(view(rows, kWidth), 900, config, Communicator::self()).edges;
  ASSERT_GT(expected.size(), 50u);
  // Every row has a size of its own, up to what f32 holds and down to where its digits end.
  for (int64_t i = 0; i < 900; ++i)
    for (int64_t k = 0; k < kWidth; ++k)
      rows[static_cast<size_t>(i * kWidth + k)] =
          std::ldexp(rows[static_cast<size_t>(i * kWidth + k)], i % 3 == 0 ? 127 : (i % 3 == 1 ? -110 : 0));
  normalize_rows(rows.data(), 900, kWidth);
  const auto found = threshold_self_join(view(rows, kWidth), 900, config, Communicator::self()).edges;
  ASSERT_EQ(found.size(), expected.size());
  for (size_t e = 0; e < found.size(); ++e) {
    EXPECT_EQ(found[e].source, expected[e].source);
    EXPECT_EQ(found[e].target, expected[e].target);
    EXPECT_NEAR(found[e].similarity, expected[e].similarity, 1e-5);
  }
  std::vector<float> tiny(8, 0.0f);
  tiny[3] = 1e-45f;
  normalize_rows(tiny.data(), 1, 8);
  EXPECT_EQ(tiny[3], 1.0f);
}

}  // namespace
}  // namespace dino
