// SPDX-License-Identifier: Apache-2.0
// Join, k-means and hierarchy give the bytes of a single process at any number of ranks.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

#include "base/error.hpp"
#include "base/signals.hpp"
#include "comm/communicator.hpp"
#include "vectors/join.hpp"
#include "vectors/kmeans.hpp"
#include "vectors/partial.hpp"
#include "vectors/synthetic.hpp"

namespace dino {
namespace {

using synthetic::unit_rows;
using synthetic::view;

ConstTensorView mine(const std::vector<float>& rows, int64_t width, const Communicator& comm) {
  const auto all = view(rows, width);
  const Range range = even_range(all.dim(0), comm.rank(), comm.size());
  return all.rows(range.begin, range.size());
}

template <class T>
void expect_part(const std::vector<T>& whole, const std::vector<T>& part, const Communicator& comm) {
  const Range range = even_range(static_cast<int64_t>(whole.size()), comm.rank(), comm.size());
  ASSERT_EQ(static_cast<int64_t>(part.size()), range.size());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + range.begin));
}

TEST(VectorsMpi, JoinIsTheSameBytes) {
  const auto world = Communicator::world();
  // Width 128 in a 16-dimensional subspace joins through the bound and fetches rows of other ranks; full
  // dimensional width 24 does not.
  for (const auto& [width, subspace] : {std::pair<int64_t, int64_t>{128, 16}, {24, 24}}) {
    const auto rows = unit_rows(
        {.rows = 1501, .width = width, .subspace = subspace, .clusters = 20, .sources = 60, .copies = 4}, 31);
    JoinConfig config;
    config.threshold = 0.9;
    config.lists = 24;
    const auto alone = threshold_self_join(view(rows, width), 1501, config, Communicator::self());
    const auto together = threshold_self_join(mine(rows, width, world), 1501, config, world);
    ASSERT_GT(alone.edges.size(), 100u);
    ASSERT_EQ(together.edges.size(), alone.edges.size());
    for (size_t i = 0; i < alone.edges.size(); ++i) {
      ASSERT_EQ(together.edges[i].source, alone.edges[i].source);
      ASSERT_EQ(together.edges[i].target, alone.edges[i].target);
      ASSERT_EQ(together.edges[i].similarity, alone.edges[i].similarity);
    }
  }
}

TEST(VectorsMpi, FewerRowsThanRanks) {
  const auto world = Communicator::world();
  const auto rows =
      unit_rows({.rows = 2, .width = 8, .subspace = 2, .sources = 1, .copies = 1, .copy_noise = 0.01}, 32);
  JoinConfig config;
  EXPECT_EQ(threshold_self_join(mine(rows, 8, world), 2, config, world).edges.size(), 1u);
  KMeansConfig flat;
  flat.clusters = 2;
  EXPECT_EQ(kmeans(mine(rows, 8, world), 2, flat, world).inertia, 0);
}

// The seeds come from a sample whose rows are not spread evenly over ranks.
TEST(VectorsMpi, KMeansSeedsFromAnUnevenSample) {
  const auto world = Communicator::world();
  const auto rows = unit_rows({.rows = 9001, .width = 64, .subspace = 6, .clusters = 100}, 35);
  KMeansConfig config;
  config.clusters = 100;
  config.iterations = 2;
  const auto alone = kmeans(view(rows, 64), 9001, config, Communicator::self());
  const auto together = kmeans(mine(rows, 64, world), 9001, config, world);
  EXPECT_TRUE(std::ranges::equal(alone.centroids.f32(), together.centroids.f32()));
  expect_part(alone.assignment, together.assignment, world);
}

TEST(VectorsMpi, KMeansIsTheSameBytes) {
  const auto world = Communicator::world();
  for (const auto& [width, clusters] : {std::pair<int64_t, int64_t>{128, 100}, {20, 9}}) {
    const auto rows = unit_rows({.rows = 1203, .width = width, .subspace = 8, .clusters = clusters}, 33);
    for (const bool spherical : {true, false}) {
      KMeansConfig config;
      config.clusters = clusters;
      config.iterations = 5;
      config.spherical = spherical;
      const auto alone = kmeans(view(rows, width), 1203, config, Communicator::self());
      const auto together = kmeans(mine(rows, width, world), 1203, config, world);
      EXPECT_TRUE(std::ranges::equal(alone.centroids.f32(), together.centroids.f32()));
      EXPECT_EQ(alone.inertia, together.inertia);
      EXPECT_EQ(alone.iterations, together.iterations);
      expect_part(alone.assignment, together.assignment, world);
      expect_part(alone.distance, together.distance, world);
    }
  }
}

TEST(VectorsMpi, EmptyClustersAreRepairedAlike) {
  const auto world = Communicator::world();
  std::vector<float> rows;
  for (int64_t i = 0; i < 403; ++i) {
    for (int64_t d = 0; d < 16; ++d)
      rows.push_back(i < 380 ? static_cast<float>((i % 3) == d)
                             : static_cast<float>((i * (d + 1)) % 7) * 0.1f);
  }
  KMeansConfig config;
  config.clusters = 12;
  config.spherical = false;
  const auto alone = kmeans(view(rows, 16), 403, config, Communicator::self());
  const auto together = kmeans(mine(rows, 16, world), 403, config, world);
  EXPECT_TRUE(std::ranges::equal(alone.centroids.f32(), together.centroids.f32()));
  expect_part(alone.assignment, together.assignment, world);
}

TEST(VectorsMpi, HierarchyIsTheSameBytes) {
  const auto world = Communicator::world();
  const auto rows = unit_rows({.rows = 1001, .width = 64, .clusters = 50}, 34);
  HierarchyConfig config;
  config.levels = {80, 20, 5};
  config.resample = 2;
  config.iterations = 4;
  const auto alone = hierarchical_kmeans(view(rows, 64), 1001, config, Communicator::self());
  const auto together = hierarchical_kmeans(mine(rows, 64, world), 1001, config, world);
  for (size_t l = 0; l < 3; ++l) {
    EXPECT_TRUE(std::ranges::equal(alone[l].centroids.f32(), together[l].centroids.f32()));
    EXPECT_EQ(alone[l].inertia, together[l].inertia);
    if (l == 0) {
      expect_part(alone[l].assignment, together[l].assignment, world);
      expect_part(alone[l].distance, together[l].distance, world);
    } else {
      EXPECT_EQ(alone[l].assignment, together[l].assignment);
      EXPECT_EQ(alone[l].distance, together[l].distance);
    }
  }
}

/// Runs `work` on all ranks, each time with the request to stop a little later and on another rank, until it
/// has been stopped `times` times or has come to its end. Returns how often it was stopped.
template <class Work>
int stop_often(const Communicator& world, int times, Work&& work) {
  int stops = 0;
  for (int start = 0; start < 100 && stops < times; ++start) {
    std::thread later;
    if (world.rank() == start % world.size()) {
      later = std::thread([start] {
        std::this_thread::sleep_for(std::chrono::milliseconds(10 + 5 * start));
        request_stop();
      });
    }
    bool stopped = false;
    try {
      work();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::stopped);
      stopped = true;
    }
    if (later.joinable()) later.join();
    clear_stop_request();
    // All ranks took the same way.
    EXPECT_EQ(world.sum(static_cast<int64_t>(stopped)), stopped ? world.size() : 0);
    if (!stopped) break;
    ++stops;
  }
  return stops;
}

std::string shared_folder(const Communicator& world, const char* name) {
  std::string folder = testing::TempDir() + name + std::to_string(::getpid());
  world.broadcast(folder);
  return folder;
}

TEST(VectorsMpi, AStoppedHierarchyGoesOnAtAnotherNumberOfRanks) {
  const auto world = Communicator::world();
  const auto rows = unit_rows({.rows = 2001, .width = 64, .subspace = 16, .clusters = 30}, 35);
  HierarchyConfig config;
  config.levels = {90, 9};
  config.resample = 2;
  config.iterations = 6;
  const auto whole = hierarchical_kmeans(view(rows, 64), 2001, config, Communicator::self());
  config.state = shared_folder(world, "dino_mpi_hierarchy_") + "/cluster.h5";
  const int stops =
      stop_often(world, 3, [&] { (void)hierarchical_kmeans(mine(rows, 64, world), 2001, config, world); });
  EXPECT_GE(stops, 1);
  world.barrier();
  if (!world.root()) return;
  const auto levels = hierarchical_kmeans(view(rows, 64), 2001, config, Communicator::self());
  for (size_t l = 0; l < 2; ++l) {
    EXPECT_EQ(levels[l].assignment, whole[l].assignment);
    EXPECT_EQ(levels[l].distance, whole[l].distance);
    EXPECT_EQ(levels[l].iterations, whole[l].iterations);
    EXPECT_TRUE(std::ranges::equal(levels[l].centroids.f32(), whole[l].centroids.f32()));
  }
  remove_partial(config.state);
}

TEST(VectorsMpi, AStoppedJoinGoesOnAtAnotherNumberOfRanks) {
  const auto world = Communicator::world();
  const auto rows =
      unit_rows({.rows = 6001, .width = 64, .subspace = 16, .clusters = 20, .sources = 200, .copies = 4}, 36);
  JoinConfig config;
  config.threshold = 0.9;
  config.lists = 48;
  config.probes = 12;
  const auto whole = threshold_self_join(view(rows, 64), 6001, config, Communicator::self()).edges;
  config.state = shared_folder(world, "dino_mpi_join_") + "/join";
  const int stops =
      stop_often(world, 3, [&] { (void)threshold_self_join(mine(rows, 64, world), 6001, config, world); });
  EXPECT_GE(stops, 1);
  world.barrier();
  if (world.root()) {
    const auto edges = threshold_self_join(view(rows, 64), 6001, config, Communicator::self()).edges;
    ASSERT_EQ(edges.size(), whole.size());
    for (size_t e = 0; e < edges.size(); ++e) {
      EXPECT_EQ(edges[e].source, whole[e].source);
      EXPECT_EQ(edges[e].target, whole[e].target);
      EXPECT_EQ(edges[e].similarity, whole[e].similarity);
    }
    remove_partial(config.state);
  }
  world.barrier();
}

}  // namespace
}  // namespace dino
