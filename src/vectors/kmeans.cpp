// SPDX-License-Identifier: Apache-2.0
#include "vectors/kmeans.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>

#include "base/error.hpp"
#include "base/log.hpp"
#include "vectors/lloyd.hpp"

namespace dino {
namespace {

/// A row that may found a cluster of its own.
struct Offer {
  int64_t row = 0, cluster = 0;
  double distance = 0;
};

bool farther(const Offer& a, const Offer& b) {
  return a.distance != b.distance ? a.distance > b.distance : a.row < b.row;
}

std::vector<int64_t> count_members(const KMeansResult& result, int64_t clusters, const Communicator& comm) {
  std::vector<int64_t> counts(static_cast<size_t>(clusters), 0);
  for (const int64_t c : result.assignment) ++counts[static_cast<size_t>(c)];
  comm.all_reduce(std::span<int64_t>(counts));
  return counts;
}

/// Gives every empty cluster the row that is farthest from its centroid, out of the clusters with more than
/// one member. The order (distance, row) is total, so the ranks' layout plays no part.
void repair_empty(const Assigner& rows, std::vector<int64_t>& counts, KMeansResult& result) {
  const auto empty = static_cast<size_t>(std::count(counts.begin(), counts.end(), 0));
  if (empty == 0) return;
  std::vector<Offer> offers;
  for (size_t i = 0; i < result.assignment.size(); ++i) {
    const int64_t c = result.assignment[i];
    if (counts[static_cast<size_t>(c)] > 1 && result.distance[i] > 0)
      offers.push_back({rows.first() + static_cast<int64_t>(i), c, static_cast<double>(result.distance[i])});
  }
  const size_t best = std::min(offers.size(), empty);
  std::partial_sort(offers.begin(), offers.begin() + static_cast<std::ptrdiff_t>(best), offers.end(),
                    farther);
  offers.resize(best);
  offers = rows.comm().all_gather_values<Offer>(offers);
  std::sort(offers.begin(), offers.end(), farther);
  auto offer = offers.begin();
  for (size_t c = 0; c < counts.size(); ++c) {
    if (counts[c] != 0) continue;
    while (offer != offers.end() && counts[static_cast<size_t>(offer->cluster)] < 2) ++offer;
    if (offer == offers.end()) return;
    --counts[static_cast<size_t>(offer->cluster)];
    counts[c] = 1;
    const int64_t local = offer->row - rows.first();
    if (local >= 0 && local < rows.count())
      result.assignment[static_cast<size_t>(local)] = static_cast<int64_t>(c);
    ++offer;
  }
}

/// Sum of the members of every cluster over all ranks, in fixed point: integers add up to the same value in
/// any order.
std::vector<int64_t> sum_members(const Assigner& rows, const std::vector<int64_t>& assignment,
                                 int64_t clusters, double scale) {
  const int64_t width = rows.width();
  std::vector<int64_t> begin(static_cast<size_t>(clusters + 1), 0), members(assignment.size());
  for (const int64_t c : assignment) ++begin[static_cast<size_t>(c) + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  auto next = begin;
  for (size_t i = 0; i < assignment.size(); ++i)
    members[static_cast<size_t>(next[static_cast<size_t>(assignment[i])]++)] = static_cast<int64_t>(i);
  std::vector<int64_t> sums(static_cast<size_t>(clusters * width), 0);
  const auto factor = static_cast<float>(scale);  // a power of two
#pragma omp parallel for schedule(dynamic) if (rows.count() * width > 1 << 18)
  for (int64_t c = 0; c < clusters; ++c) {
    int64_t* sum = sums.data() + c * width;
    for (int64_t m = begin[static_cast<size_t>(c)]; m < begin[static_cast<size_t>(c) + 1]; ++m) {
      const float* x = rows.row(members[static_cast<size_t>(m)]);
#pragma omp simd
      for (int64_t k = 0; k < width; ++k) sum[k] += static_cast<int32_t>(x[k] * factor);
    }
  }
  rows.comm().all_reduce(std::span<int64_t>(sums));
  return sums;
}

void update_centroids(const Assigner& rows, const std::vector<int64_t>& counts, KMeansResult& result) {
  const int64_t width = rows.width(), clusters = static_cast<int64_t>(counts.size());
  const double scale = fixed_point_scale(rows.largest_norm());
  const std::vector<int64_t> sums = sum_members(rows, result.assignment, clusters, scale);
  float* centroids = result.centroids.as<float>();
  std::vector<double> mean(static_cast<size_t>(width));
  for (int64_t c = 0; c < clusters; ++c) {
    const int64_t members = counts[static_cast<size_t>(c)];
    if (members == 0) continue;  // keeps its place
    double squared = 0;
    for (int64_t k = 0; k < width; ++k) {
      const auto at = static_cast<size_t>(k);
      mean[at] = static_cast<double>(sums[static_cast<size_t>(c * width) + at]) / scale /
                 static_cast<double>(members);
      squared += mean[at] * mean[at];
    }
    const double norm = rows.spherical() ? std::sqrt(squared) : 1;
    if (norm == 0) continue;
    for (int64_t k = 0; k < width; ++k)
      centroids[c * width + k] = static_cast<float>(mean[static_cast<size_t>(k)] / norm);
  }
}

}  // namespace

void assign_rows(const Assigner& rows, KMeansResult& result) {
  const ScoredCentroids centroids = rows.prepare(result.centroids.as<float>(), result.centroids.shape()[0]);
  Best best;
  best.reset(rows.count());
  if (static_cast<int64_t>(result.assignment.size()) == rows.count())
    best.centroid = std::move(result.assignment);
  rows.rescore(centroids, best);
  rows.improve(centroids, 0, best);
  result.distance.resize(static_cast<size_t>(rows.count()));
  const double scale = fixed_point_scale(4 * rows.largest_norm() * rows.largest_norm());
  int64_t inertia = 0;
  for (int64_t i = 0; i < rows.count(); ++i) {
    const auto at = static_cast<size_t>(i);
    result.distance[at] = rows.squared_distance(i, centroids, best.centroid[at], best.score[at]);
    inertia += static_cast<int64_t>(static_cast<double>(result.distance[at]) * scale);
  }
  result.assignment = std::move(best.centroid);
  result.inertia = static_cast<double>(rows.comm().sum(inertia)) / scale;
}

KMeansResult run_lloyd(const Assigner& rows, const KMeansConfig& config) {
  KMeansResult result;
  result.centroids = Tensor(Shape{config.clusters, rows.width()});
  const std::vector<float> seeds = seed_centroids(rows, config);
  std::copy(seeds.begin(), seeds.end(), result.centroids.as<float>());
  double before = 0;
  for (;;) {
    assign_rows(rows, result);
    std::vector<int64_t> counts = count_members(result, config.clusters, rows.comm());
    const bool full = std::find(counts.begin(), counts.end(), 0) == counts.end();
    const bool settled = result.iterations > 0 && full && before - result.inertia < config.tolerance * before;
    if (settled || result.iterations == config.iterations) return result;
    before = result.inertia;
    repair_empty(rows, counts, result);
    update_centroids(rows, counts, result);
    ++result.iterations;
  }
}

KMeansResult kmeans(ConstTensorView local, int64_t total_rows, const KMeansConfig& config,
                    const Communicator& comm) {
  if (config.clusters < 1 || config.clusters > total_rows)
    throw UsageError("cannot cluster: --levels " + std::to_string(config.clusters) + ": there are " +
                     std::to_string(total_rows) + " rows; ask for between 1 and that many clusters");
  const log::Phase phase("k-means");
  const int64_t n = local.dim(0);
  const Assigner rows(n > 0 ? local.as<float>() : nullptr, n, local.dim(1), total_rows, config.clusters,
                      config.spherical, config.seed, comm);
  return run_lloyd(rows, config);
}

}  // namespace dino
