// SPDX-License-Identifier: Apache-2.0
#include "vectors/kmeans.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>

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

/// A power of two per cluster for sums in fixed point. Unit vectors have one for all; others one that fits
/// the largest member, so that a distant giant does not round away what is in other clusters.
std::vector<double> sum_scales(const Assigner& rows, const std::vector<int64_t>& assignment,
                               int64_t clusters) {
  std::vector<double> scales(static_cast<size_t>(clusters), fixed_point_scale(rows.largest_norm()));
  if (rows.spherical()) return scales;
  std::vector<double> largest(static_cast<size_t>(clusters), 0);
  for (size_t i = 0; i < assignment.size(); ++i) {
    double& most = largest[static_cast<size_t>(assignment[i])];
    most = std::max(most, static_cast<double>(rows.squared_norm(static_cast<int64_t>(i))));
  }
  rows.comm().all_reduce(std::span<double>(largest), ReduceOp::max);
  for (size_t c = 0; c < scales.size(); ++c) scales[c] = fixed_point_scale(1.001 * std::sqrt(largest[c]));
  return scales;
}

/// Sum of the members of every cluster over all ranks, in fixed point: integers add up to the same value in
/// any order.
std::vector<int64_t> sum_members(const Assigner& rows, const std::vector<int64_t>& assignment,
                                 int64_t clusters, const std::vector<double>& scales) {
  const int64_t width = rows.width();
  std::vector<int64_t> begin(static_cast<size_t>(clusters + 1), 0), members(assignment.size());
  for (const int64_t c : assignment) ++begin[static_cast<size_t>(c) + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  auto next = begin;
  for (size_t i = 0; i < assignment.size(); ++i)
    members[static_cast<size_t>(next[static_cast<size_t>(assignment[i])]++)] = static_cast<int64_t>(i);
  std::vector<int64_t> sums(static_cast<size_t>(clusters * width), 0);
#pragma omp parallel for schedule(dynamic) if (rows.count() * width > 1 << 18)
  for (int64_t c = 0; c < clusters; ++c) {
    int64_t* sum = sums.data() + c * width;
    const auto factor = static_cast<float>(scales[static_cast<size_t>(c)]);  // a power of two
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
  const std::vector<double> scales = sum_scales(rows, result.assignment, clusters);
  const std::vector<int64_t> sums = sum_members(rows, result.assignment, clusters, scales);
  float* centroids = result.centroids.as<float>();
  std::vector<double> mean(static_cast<size_t>(width));
  for (int64_t c = 0; c < clusters; ++c) {
    const int64_t members = counts[static_cast<size_t>(c)];
    if (members == 0) continue;  // keeps its place
    double squared = 0;
    for (int64_t k = 0; k < width; ++k) {
      const auto at = static_cast<size_t>(k);
      mean[at] = static_cast<double>(sums[static_cast<size_t>(c * width) + at]) /
                 scales[static_cast<size_t>(c)] / static_cast<double>(members);
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
  double most = 0;
  for (int64_t i = 0; i < rows.count(); ++i) {
    const auto at = static_cast<size_t>(i);
    result.distance[at] = rows.squared_distance(i, centroids, best.centroid[at], best.score[at]);
    most = std::max(most, static_cast<double>(result.distance[at]));
  }
  const double scale = fixed_point_scale(rows.spherical() ? 4 * rows.largest_norm() * rows.largest_norm()
                                                          : rows.comm().max(most));
  int64_t inertia = 0;
  for (int64_t i = 0; i < rows.count(); ++i) {
    const auto at = static_cast<size_t>(i);
    inertia += static_cast<int64_t>(static_cast<double>(result.distance[at]) * scale);
  }
  result.assignment = std::move(best.centroid);
  result.inertia = static_cast<double>(rows.comm().sum(inertia)) / scale;
}

KMeansResult run_lloyd(const Assigner& rows, const KMeansConfig& config, const LloydState* start,
                       const std::function<void(const LloydState&)>& at_iteration) {
  KMeansResult result;
  result.centroids = Tensor(Shape{config.clusters, rows.width()});
  const std::vector<float> from = start != nullptr ? start->centroids : seed_centroids(rows, config);
  std::copy(from.begin(), from.end(), result.centroids.as<float>());
  result.iterations = start != nullptr ? start->iterations : 0;
  double before = start != nullptr ? start->before : 0;
  for (;;) {
    if (at_iteration) {
      const auto centroids = std::as_const(result.centroids).f32();
      at_iteration({{centroids.begin(), centroids.end()}, result.iterations, before});
    }
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
  const ScaledRows scaled(local, comm);
  const Assigner rows(scaled.data(), n, local.dim(1), total_rows, config.clusters, config.spherical,
                      config.seed, comm);
  KMeansResult result = run_lloyd(rows, config);
  scaled.undo(result, comm);
  return result;
}

// Squares of norms from 2^-20 to 2^60, of distances and of what is left of cancelled ones, are normal numbers
// of f32. Rows up to 2^100 times smaller than the largest still count.
ScaledRows::ScaledRows(ConstTensorView local, const Communicator& comm) {
  constexpr int kSmallest = -20, kLargest = 60;
  const int64_t n = local.dim(0), width = local.dim(1);
  data_ = n > 0 ? local.as<float>() : nullptr;
  double largest = 0;
#pragma omp parallel for reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    double squared = 0;
#pragma omp simd reduction(+ : squared)
    for (int64_t k = 0; k < width; ++k)
      squared += static_cast<double>(data_[i * width + k]) * static_cast<double>(data_[i * width + k]);
    largest = std::max(largest, squared);
  }
  largest = std::sqrt(comm.max(largest));
  int exponent = 0;
  if (largest > 0) std::frexp(largest, &exponent);
  if (exponent >= kSmallest && exponent <= kLargest) return;
  exponent_ = kLargest - exponent;
  const double factor = std::ldexp(1.0, exponent_);
  copy_.resize(static_cast<size_t>(n * width));
#pragma omp parallel for
  for (int64_t i = 0; i < n * width; ++i)
    copy_[static_cast<size_t>(i)] = static_cast<float>(static_cast<double>(data_[i]) * factor);
  data_ = copy_.data();
}

template <class Result>
void ScaledRows::undo(Result& result, const Communicator& comm) const {
  if (exponent_ == 0) return;
  const double back = std::ldexp(1.0, -exponent_);
  for (float& value : result.centroids.f32()) value = static_cast<float>(static_cast<double>(value) * back);
  result.inertia *= back * back;
  bool fits = true;
  for (const float distance : result.distance) {
    const double squared = static_cast<double>(distance) * back * back;
    fits = fits && (squared == 0 || (squared >= static_cast<double>(std::numeric_limits<float>::min()) &&
                                     squared <= static_cast<double>(std::numeric_limits<float>::max())));
  }
  if (comm.any(!fits)) {
    result.distance_exponent = -2 * exponent_;
    return;
  }
  for (float& distance : result.distance)
    distance = static_cast<float>(static_cast<double>(distance) * back * back);
}
template void ScaledRows::undo(KMeansResult&, const Communicator&) const;
template void ScaledRows::undo(Level&, const Communicator&) const;

}  // namespace dino
