// SPDX-License-Identifier: Apache-2.0
#include "vectors/kmeans.hpp"

#include <gtest/gtest.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>
#include <thread>

#include "base/cpu.hpp"
#include "base/error.hpp"
#include "base/signals.hpp"
#include "vectors/partial.hpp"
#include "vectors/synthetic.hpp"

namespace dino {
namespace {

using synthetic::unit_rows;
using synthetic::view;

/// Plain k-means in f64 from the given seeds.
double naive_objective(const std::vector<float>& rows, int64_t width, std::vector<double> centroids,
                       int iterations, bool spherical) {
  const auto n = static_cast<int64_t>(rows.size()) / width;
  const auto k = static_cast<int64_t>(centroids.size()) / width;
  double inertia = 0;
  for (int it = 0; it <= iterations; ++it) {
    inertia = 0;
    std::vector<double> sums(centroids.size(), 0);
    std::vector<int64_t> counts(static_cast<size_t>(k), 0);
    for (int64_t i = 0; i < n; ++i) {
      double nearest = std::numeric_limits<double>::max();
      int64_t best = 0;
      for (int64_t c = 0; c < k; ++c) {
        double squared = 0;
        for (int64_t d = 0; d < width; ++d)
          squared += std::pow(static_cast<double>(rows[static_cast<size_t>(i * width + d)]) -
                                  centroids[static_cast<size_t>(c * width + d)],
                              2);
        if (squared < nearest) {
          nearest = squared;
          best = c;
        }
      }
      inertia += nearest;
      ++counts[static_cast<size_t>(best)];
      for (int64_t d = 0; d < width; ++d)
        sums[static_cast<size_t>(best * width + d)] +=
            static_cast<double>(rows[static_cast<size_t>(i * width + d)]);
    }
    for (int64_t c = 0; c < k; ++c) {
      if (counts[static_cast<size_t>(c)] == 0) continue;
      double norm = 0;
      for (int64_t d = 0; d < width; ++d) norm += std::pow(sums[static_cast<size_t>(c * width + d)], 2);
      const double divisor =
          spherical ? std::sqrt(norm) : static_cast<double>(counts[static_cast<size_t>(c)]);
      for (int64_t d = 0; d < width; ++d)
        centroids[static_cast<size_t>(c * width + d)] = sums[static_cast<size_t>(c * width + d)] / divisor;
    }
  }
  return inertia;
}

void expect_nearest(const std::vector<float>& rows, int64_t width, const KMeansResult& result) {
  const auto n = static_cast<int64_t>(rows.size()) / width;
  const float* centroids = result.centroids.as<float>();
  double inertia = 0;
  for (int64_t i = 0; i < n; ++i) {
    std::vector<double> squared(static_cast<size_t>(result.centroids.shape()[0]), 0);
    for (size_t c = 0; c < squared.size(); ++c) {
      for (int64_t d = 0; d < width; ++d)
        squared[c] += std::pow(static_cast<double>(rows[static_cast<size_t>(i * width + d)]) -
                                   static_cast<double>(centroids[static_cast<int64_t>(c) * width + d]),
                               2);
    }
    const double nearest = *std::min_element(squared.begin(), squared.end());
    const auto chosen = static_cast<size_t>(result.assignment[static_cast<size_t>(i)]);
    ASSERT_NEAR(squared[chosen], nearest, 2e-6) << i;
    ASSERT_NEAR(static_cast<double>(result.distance[static_cast<size_t>(i)]), nearest, 4e-6) << i;
    inertia += nearest;
  }
  EXPECT_NEAR(result.inertia, inertia, 1e-4 * inertia + 1e-6);
}

TEST(KMeans, ReachesTheObjectiveOfPlainLloyd) {
  // 100 clusters of width 128 take the bounded path, 7 of width 24 the plain one.
  for (const bool spherical : {true, false}) {
    for (const auto& [width, clusters] : {std::pair<int64_t, int64_t>{128, 100}, {24, 7}}) {
      const auto rows = unit_rows({.rows = 1500, .width = width, .subspace = 8, .clusters = clusters}, 11);
      KMeansConfig config;
      config.clusters = clusters;
      config.iterations = 8;
      config.tolerance = 0;
      config.spherical = spherical;
      const auto result = kmeans(view(rows, width), 1500, config, Communicator::self());
      expect_nearest(rows, width, result);
      std::vector<double> seeds;  // evenly spaced rows: one of each planted cluster
      for (int64_t c = 0; c < clusters; ++c)
        seeds.insert(seeds.end(), rows.begin() + c * width, rows.begin() + (c + 1) * width);
      const double naive = naive_objective(rows, width, seeds, 8, spherical);
      EXPECT_LT(result.inertia, 1.1 * naive) << width << " " << spherical;
    }
  }
}

TEST(KMeans, OneIterationIsTheMean) {
  const auto rows = unit_rows({.rows = 333, .width = 40}, 12);
  KMeansConfig config;
  config.clusters = 1;
  config.iterations = 1;
  config.spherical = false;
  const auto result = kmeans(view(rows, 40), 333, config, Communicator::self());
  for (int64_t d = 0; d < 40; ++d) {
    double mean = 0;
    for (int64_t i = 0; i < 333; ++i)
      mean += static_cast<double>(rows[static_cast<size_t>(i * 40 + d)]) / 333;
    EXPECT_NEAR(static_cast<double>(result.centroids.as<float>()[d]), mean, 1e-7);
  }
}

TEST(KMeans, InertiaFallsAndTheToleranceStops) {
  const auto rows = unit_rows({.rows = 1200, .width = 64, .clusters = 40}, 13);
  KMeansConfig config;
  config.clusters = 25;
  config.tolerance = 0;
  double before = std::numeric_limits<double>::max();
  for (const int64_t iterations : {0, 1, 3, 10}) {
    config.iterations = iterations;
    const auto result = kmeans(view(rows, 64), 1200, config, Communicator::self());
    EXPECT_LE(result.inertia, before * (1 + 1e-6));
    before = result.inertia;
  }
  config.iterations = 1000;
  config.tolerance = 1e-3;
  EXPECT_LT(kmeans(view(rows, 64), 1200, config, Communicator::self()).iterations, 200);
}

TEST(KMeans, EmptyClustersAreFilled) {
  // Many copies of few points and some outliers: seeding or updates leave clusters without members.
  std::vector<float> rows;
  for (int64_t i = 0; i < 400; ++i) {
    for (int64_t d = 0; d < 16; ++d)
      rows.push_back(i < 380 ? static_cast<float>((i % 3) == d) : static_cast<float>((i + d) % 7) * 0.1f);
  }
  KMeansConfig config;
  config.clusters = 10;
  config.spherical = false;
  const auto result = kmeans(view(rows, 16), 400, config, Communicator::self());
  const std::set<int64_t> used(result.assignment.begin(), result.assignment.end());
  EXPECT_EQ(used.size(), 10u);
  expect_nearest(rows, 16, result);
}

TEST(KMeans, FewerDistinctRowsThanClustersStillEnds) {
  std::vector<float> rows(100 * 8, 0.0f);
  for (size_t i = 0; i < 100; ++i) rows[i * 8 + i % 2] = 1;
  KMeansConfig config;
  config.clusters = 5;
  const auto result = kmeans(view(rows, 8), 100, config, Communicator::self());
  EXPECT_EQ(result.inertia, 0);
  config.clusters = 101;
  EXPECT_THROW((void)kmeans(view(rows, 8), 100, config, Communicator::self()), UsageError);
}

TEST(KMeans, ThreadsDoNotChangeTheBytes) {
  const auto rows = unit_rows({.rows = 2000, .width = 128, .clusters = 80}, 14);
  KMeansConfig config;
  config.clusters = 90;
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = kmeans(view(rows, 128), 2000, config, Communicator::self());
  omp_set_num_threads(3);
  const auto three = kmeans(view(rows, 128), 2000, config, Communicator::self());
  omp_set_num_threads(threads);
  EXPECT_EQ(one.assignment, three.assignment);
  EXPECT_EQ(one.distance, three.distance);
  EXPECT_TRUE(std::ranges::equal(one.centroids.f32(), three.centroids.f32()));
}

TEST(KMeans, CpuLevelsDoNotChangeTheBytes) {
  const auto rows = unit_rows({.rows = 900, .width = 64, .clusters = 40}, 16);
  KMeansConfig config;
  config.clusters = 70;
  config.iterations = 4;
  const CpuLevel before = cpu_level();
  std::vector<float> expected;
  for (const CpuLevel level : available_cpu_levels()) {
    set_cpu_level(level);
    const auto result = kmeans(view(rows, 64), 900, config, Communicator::self());
    if (expected.empty()) expected.assign(result.centroids.f32().begin(), result.centroids.f32().end());
    EXPECT_TRUE(std::ranges::equal(result.centroids.f32(), expected)) << cpu_level_name(level);
  }
  set_cpu_level(before);
}

TEST(Hierarchy, LevelsFitTogetherAndResamplingFlattens) {
  // One cluster holds three quarters of the rows.
  auto dense = unit_rows({.rows = 1500, .width = 32, .clusters = 1, .spread = 0.8}, 15);
  const auto sparse = unit_rows({.rows = 500, .width = 32, .clusters = 60, .spread = 0.3}, 15);
  dense.insert(dense.end(), sparse.begin(), sparse.end());
  HierarchyConfig config;
  config.levels = {60, 12, 3};
  config.iterations = 10;
  const auto in_dense = [](const Level& level) {
    std::set<int64_t> clusters(level.assignment.begin(), level.assignment.begin() + 1500);
    return clusters.size();
  };
  config.resample = 0;
  const size_t plain = in_dense(hierarchical_kmeans(view(dense, 32), 2000, config, Communicator::self())[0]);
  config.resample = 5;
  const auto levels = hierarchical_kmeans(view(dense, 32), 2000, config, Communicator::self());
  EXPECT_LE(in_dense(levels[0]), plain);
  ASSERT_EQ(levels.size(), 3u);
  size_t below = 2000;
  for (size_t l = 0; l < 3; ++l) {
    EXPECT_EQ(levels[l].assignment.size(), below);
    for (const int64_t c : levels[l].assignment) EXPECT_TRUE(c >= 0 && c < config.levels[l]);
    below = static_cast<size_t>(config.levels[l]);
  }
  for (const std::vector<int64_t>& bad : {std::vector<int64_t>{}, std::vector<int64_t>{10, 20},
                                          std::vector<int64_t>{2001}, std::vector<int64_t>{10, 0}}) {
    config.levels = bad;
    EXPECT_THROW((void)hierarchical_kmeans(view(dense, 32), 2000, config, Communicator::self()), UsageError);
  }
}

std::vector<float> scaled(std::vector<float> rows, int exponent) {
  for (float& x : rows) x = std::ldexp(x, exponent);
  return rows;
}

TEST(KMeans, RowsOfAnySizeClusterAsThoseOfSizeOne) {
  const auto rows = unit_rows({.rows = 1200, .width = 64}, 5);
  KMeansConfig config;
  config.clusters = 80;  // enough for the bound
  config.spherical = false;
  config.seed = 3;
  const auto plain = kmeans(view(rows, 64), 1200, config, Communicator::self());
  for (const int exponent : {-100, -70, -25, 30, 61, 90, 127}) {
    const auto other = scaled(rows, exponent);
    const auto result = kmeans(view(other, 64), 1200, config, Communicator::self());
    EXPECT_EQ(result.assignment, plain.assignment) << exponent;
    EXPECT_EQ(result.inertia, std::ldexp(plain.inertia, 2 * exponent)) << exponent;
    const auto expected = plain.centroids.f32(), found = result.centroids.f32();
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_EQ(found[i], std::ldexp(expected[i], exponent)) << exponent << " at " << i;
    for (size_t i = 0; i < plain.distance.size(); ++i)
      ASSERT_EQ(
          std::ldexp(static_cast<double>(result.distance[i]), static_cast<int>(result.distance_exponent)),
          std::ldexp(static_cast<double>(plain.distance[i]), 2 * exponent));
  }
}

/// Four tight groups of size one and a giant: the giant has a cluster, and the groups have theirs.
TEST(KMeans, AGiantRowDoesNotRoundTheOthersAway) {
  for (const float giant : {1e12f, 1e30f, 3e38f}) {
    std::vector<float> rows;
    Random random(1, RandomStream::test, 9);
    for (int i = 0; i < 200; ++i)
      for (int k = 0; k < 8; ++k)
        rows.push_back(static_cast<float>((k == i % 4 ? 1 : 0) + 0.01 * random.normal()));
    rows.insert(rows.end(), {giant, giant, 0, 0, -giant, 0, 0, 0});
    rows.insert(rows.end(), 8, 0.0f);
    rows.insert(rows.end(), 8, 1e-42f);
    KMeansConfig config;
    config.clusters = 6;
    config.spherical = false;
    config.iterations = 50;
    const auto result = kmeans(view(rows, 8), 203, config, Communicator::self());
    for (const float x : result.centroids.f32()) EXPECT_TRUE(std::isfinite(x));
    EXPECT_TRUE(std::isfinite(result.inertia));
    EXPECT_LT(result.inertia, 1);
    for (size_t i = 4; i < 200; ++i) EXPECT_EQ(result.assignment[i], result.assignment[i % 4]) << giant;
    EXPECT_EQ(std::count(result.assignment.begin(), result.assignment.end(), result.assignment[200]), 1);
    EXPECT_EQ(result.assignment[201], result.assignment[202]);
  }
}

/// Stops a hierarchy again and again, a little later each time, until it comes to its end.
TEST(KMeans, AHierarchyThatIsStoppedGoesOnToTheSameResult) {
  const auto rows = unit_rows({.rows = 3000, .width = 64}, 6);
  HierarchyConfig config;
  config.levels = {120, 12};
  config.resample = 3;
  config.iterations = 8;
  const auto whole = hierarchical_kmeans(view(rows, 64), 3000, config, Communicator::self());
  config.state = testing::TempDir() + "dino_kmeans_state_" + std::to_string(::getpid()) + "/cluster.h5";
  std::vector<Level> levels;
  int stops = 0;
  for (int start = 0; levels.empty() && start < 200; ++start) {
    std::thread later([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(3 + 2 * start + start * start / 10));
      request_stop();
    });
    try {
      levels = hierarchical_kmeans(view(rows, 64), 3000, config, Communicator::self());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::stopped);
      ++stops;
    }
    later.join();
    clear_stop_request();
  }
  ASSERT_EQ(levels.size(), 2u);
  EXPECT_GE(stops, 2);
  for (size_t l = 0; l < 2; ++l) {
    EXPECT_EQ(levels[l].assignment, whole[l].assignment);
    EXPECT_EQ(levels[l].distance, whole[l].distance);
    EXPECT_EQ(levels[l].inertia, whole[l].inertia);
    EXPECT_EQ(levels[l].iterations, whole[l].iterations);
    EXPECT_TRUE(std::equal(levels[l].centroids.f32().begin(), levels[l].centroids.f32().end(),
                           whole[l].centroids.f32().begin()));
  }
  // Another setting, other rows, a damaged state: not gone on with, and not an error.
  ASSERT_TRUE(std::filesystem::exists(config.state));
  HierarchyConfig other = config;
  other.seed = 9;
  EXPECT_FALSE(PartialState::load(config.state, "another").has_value());
  const auto damaged = hierarchical_kmeans(view(rows, 64), 3000, other, Communicator::self());
  other.state.clear();
  EXPECT_EQ(damaged[0].assignment,
            hierarchical_kmeans(view(rows, 64), 3000, other, Communicator::self())[0].assignment);
  std::filesystem::resize_file(config.state, std::filesystem::file_size(config.state) - 9);
  EXPECT_EQ(hierarchical_kmeans(view(rows, 64), 3000, config, Communicator::self())[0].assignment,
            whole[0].assignment);
  remove_partial(config.state);
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(config.state).parent_path()));
}

}  // namespace
}  // namespace dino
