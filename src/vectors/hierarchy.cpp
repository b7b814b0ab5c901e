// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <span>
#include <string>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/progress.hpp"
#include "vectors/lloyd.hpp"

namespace dino {
namespace {

constexpr int64_t kMostPerCluster = 32;  // bounds the cost of a resampling step
constexpr uint64_t kStepsPerLevel = 1 << 10;

/// A member with its distance to the centroid.
struct Member {
  int64_t cluster = 0, row = 0;
  double distance = 0;
};

bool closer(const Member& a, const Member& b) {
  if (a.cluster != b.cluster) return a.cluster < b.cluster;
  return a.distance != b.distance ? a.distance < b.distance : a.row < b.row;
}

void keep_closest(std::vector<Member>& members, int64_t per_cluster) {
  std::sort(members.begin(), members.end(), closer);
  int64_t taken = 0, cluster = -1;
  std::erase_if(members, [&](const Member& member) {
    if (member.cluster != cluster) taken = 0;
    cluster = member.cluster;
    return ++taken > per_cluster;
  });
}

/// The rows closest to their centroids, up to `per_cluster` of each cluster: global rows, ascending, the same
/// on every rank.
std::vector<int64_t> closest_rows(const Assigner& rows, const KMeansResult& result, int64_t per_cluster) {
  std::vector<Member> members(result.assignment.size());
  for (size_t i = 0; i < members.size(); ++i)
    members[i] = {result.assignment[i], rows.first() + static_cast<int64_t>(i),
                  static_cast<double>(result.distance[i])};
  keep_closest(members, per_cluster);
  members = rows.comm().all_gather_values<Member>(members);
  keep_closest(members, per_cluster);
  std::vector<int64_t> chosen(members.size());
  std::transform(members.begin(), members.end(), chosen.begin(), [](const Member& m) { return m.row; });
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

/// Chosen rows laid out over ranks by even_range.
std::vector<float> redistribute(const Assigner& rows, const std::vector<int64_t>& chosen) {
  const Communicator& comm = rows.comm();
  const auto total = static_cast<int64_t>(chosen.size());
  std::vector<std::vector<std::byte>> send(static_cast<size_t>(comm.size()));
  int target = 0;
  for (int64_t i = 0; i < total; ++i) {
    while (i >= even_range(total, target, comm.size()).end) ++target;
    const int64_t local = chosen[static_cast<size_t>(i)] - rows.first();
    if (local < 0 || local >= rows.count()) continue;
    const auto bytes = std::as_bytes(std::span(rows.row(local), static_cast<size_t>(rows.width())));
    auto& buffer = send[static_cast<size_t>(target)];
    buffer.insert(buffer.end(), bytes.begin(), bytes.end());
  }
  std::vector<float> received;
  for (const auto& bytes : comm.all_to_all(send)) {
    const size_t old = received.size();
    received.resize(old + bytes.size() / sizeof(float));
    if (!bytes.empty()) std::memcpy(received.data() + old, bytes.data(), bytes.size());
  }
  return received;
}

/// One resampling step (arXiv 2405.15613, section 3.3): k-means on a sample that takes the same number from
/// each cluster, dense or sparse, then all rows go to the new centroids. Half the mean cluster size is taken,
/// as the paper does.
bool resample(const Assigner& rows, const KMeansConfig& config, KMeansResult& result) {
  const int64_t half = rows.total() / (2 * config.clusters);
  const std::vector<int64_t> chosen =
      closest_rows(rows, result, std::clamp<int64_t>(half, 1, kMostPerCluster));
  const auto total = static_cast<int64_t>(chosen.size());
  if (total <= config.clusters) return false;
  const std::vector<float> sample = redistribute(rows, chosen);
  const auto held = static_cast<int64_t>(sample.size()) / rows.width();
  const Assigner sampled(sample.data(), held, rows.width(), total, config.clusters, config.spherical,
                         config.seed, rows.comm());
  result.centroids = run_lloyd(sampled, config).centroids;
  assign_rows(rows, result);
  return true;
}

void check(const HierarchyConfig& config, int64_t total_rows) {
  int64_t above = total_rows;
  for (const int64_t clusters : config.levels) {
    if (clusters < 1 || clusters > above)
      throw UsageError("cannot cluster: --levels: " + std::to_string(clusters) + " clusters of " +
                       std::to_string(above) +
                       " points; give falling numbers, the first at most the number of rows");
    above = clusters;
  }
  if (config.levels.empty())
    throw UsageError("cannot cluster: --levels: none is given; give for example 1000,100,10");
}

}  // namespace

std::vector<Level> hierarchical_kmeans(ConstTensorView local, int64_t total_rows,
                                       const HierarchyConfig& config, const Communicator& comm) {
  check(config, total_rows);
  const log::Phase phase("clustering");
  const int64_t width = local.dim(1);
  std::vector<Level> levels;
  const float* input = local.dim(0) > 0 ? local.as<float>() : nullptr;
  int64_t held = local.dim(0), total = total_rows;
  Progress progress("cluster", static_cast<int64_t>(config.levels.size()) * (config.resample + 1), "steps");
  for (size_t l = 0; l < config.levels.size(); ++l) {
    KMeansConfig flat;
    flat.clusters = config.levels[l];
    flat.iterations = config.iterations;
    flat.spherical = config.spherical;
    flat.seed = config.seed;
    flat.stream = (l + 1) * kStepsPerLevel;
    const Assigner rows(input, held, width, total, flat.clusters, flat.spherical, flat.seed, comm);
    KMeansResult result = run_lloyd(rows, flat);
    progress.add(1);
    for (int64_t step = 0; step < config.resample; ++step) {
      ++flat.stream;
      if (!resample(rows, flat, result)) break;
      progress.add(1);
    }
    Level level;
    level.inertia = result.inertia;
    level.iterations = result.iterations;
    level.centroids = std::move(result.centroids);
    level.assignment =
        l == 0 ? std::move(result.assignment) : comm.all_gather_values<int64_t>(result.assignment);
    level.distance = l == 0 ? std::move(result.distance) : comm.all_gather_values<float>(result.distance);
    levels.push_back(std::move(level));
    // The centroids, each of weight one, are the points of the next level.
    total = config.levels[l];
    const Range mine = even_range(total, comm.rank(), comm.size());
    held = mine.size();
    input = levels.back().centroids.as<float>() + mine.begin * width;
  }
  return levels;
}

}  // namespace dino
