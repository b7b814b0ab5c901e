// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "base/random.hpp"
#include "vectors/lloyd.hpp"

namespace dino {
namespace {

constexpr int64_t kSamplePerCluster = 32;
constexpr int64_t kSmallestSample = 4096;
// Indices of the seeding stream: the sample and the draws of one run are apart from those of any other.
constexpr uint64_t kSample = 1 << 9, kDraws = 1 << 10, kRuns = 1 << 12;

/// This rank's part of the sample: global rows and their squared distance to the nearest seed in fixed point.
struct SeedSample {
  std::vector<int64_t> global;
  std::vector<float> rows;
  std::vector<int64_t> weight;
};

SeedSample take_sample(const Assigner& rows, const KMeansConfig& config) {
  const int64_t wanted =
      std::min(rows.total(), std::max(kSmallestSample, kSamplePerCluster * config.clusters));
  SeedSample sample;
  for (const int64_t row :
       stratified_rows(rows.total(), wanted, config.seed, config.stream * kRuns + kSample)) {
    if (row < rows.first() || row >= rows.first() + rows.count()) continue;
    sample.global.push_back(row);
    const float* from = rows.row(row - rows.first());
    sample.rows.insert(sample.rows.end(), from, from + rows.width());
  }
  return sample;
}

/// Draws `count` sample rows with probability proportional to their weight. The total and the prefix sums are
/// integers over globally ordered rows, so every layout over ranks picks the same rows. Returns the local
/// ones (positions in the sample, ascending, each once).
std::vector<size_t> draw(const SeedSample& sample, int64_t count, Random& random, const Communicator& comm) {
  std::vector<int64_t> prefix(sample.weight.size() + 1, 0);
  std::partial_sum(sample.weight.begin(), sample.weight.end(), prefix.begin() + 1);
  const int64_t before = comm.exclusive_scan(prefix.back());
  const int64_t total = comm.sum(prefix.back());
  std::vector<size_t> chosen;
  if (total == 0) return chosen;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = static_cast<int64_t>(random.below(static_cast<uint64_t>(total))) - before;
    if (at < 0 || at >= prefix.back()) continue;
    chosen.push_back(
        static_cast<size_t>(std::upper_bound(prefix.begin(), prefix.end(), at) - prefix.begin() - 1));
  }
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen;
}

/// Where fewer distinct rows than seeds exist: the first sample rows that are not seeds yet.
std::vector<size_t> first_unused(const SeedSample& sample, const std::vector<uint8_t>& used, int64_t count,
                                 const Communicator& comm) {
  std::vector<size_t> free;
  for (size_t i = 0; i < sample.global.size(); ++i) {
    if (used[i] == 0) free.push_back(i);
  }
  const int64_t before = comm.exclusive_scan(static_cast<int64_t>(free.size()));
  free.resize(static_cast<size_t>(std::clamp<int64_t>(count - before, 0, static_cast<int64_t>(free.size()))));
  return free;
}

/// Squared distances of the sample to the nearest seed when `count` rows join the seeds. A row's present
/// distance is a mark to beat, so that rows far from the new seeds cost only the bound.
std::vector<float> lowered(const Assigner& sampled, const float* rows, int64_t count,
                           const std::vector<float>& nearest) {
  const ScoredCentroids prepared = sampled.prepare(rows, count);
  Best best;
  best.reset(sampled.count());
  for (size_t i = 0; i < nearest.size(); ++i) {
    // |x - c|^2 < nearest is x.c - |c|^2 / 2 > (|x|^2 - nearest) / 2; infinite before the first seed.
    best.score[i] = 0.5f * (sampled.squared_norm(static_cast<int64_t>(i)) - nearest[i]);
  }
  sampled.improve(prepared, 0, best);
  std::vector<float> squared(nearest);
  for (size_t i = 0; i < squared.size(); ++i) {
    if (best.centroid[i] >= 0)
      squared[i] = std::min(squared[i], sampled.squared_distance(static_cast<int64_t>(i), prepared,
                                                                 best.centroid[i], best.score[i]));
  }
  return squared;
}

/// The candidate that leaves the smallest sum of squared distances (ties: the first).
int64_t best_candidate(const Assigner& sampled, const std::vector<float>& candidates,
                       const std::vector<float>& nearest, double scale) {
  const auto count = static_cast<int64_t>(candidates.size()) / sampled.width();
  std::vector<int64_t> potential(static_cast<size_t>(count), 0);
  for (int64_t c = 0; c < count; ++c) {
    for (const float squared : lowered(sampled, candidates.data() + c * sampled.width(), 1, nearest))
      potential[static_cast<size_t>(c)] += static_cast<int64_t>(static_cast<double>(squared) * scale);
  }
  sampled.comm().all_reduce(std::span<int64_t>(potential));
  return std::min_element(potential.begin(), potential.end()) - potential.begin();
}

std::vector<float> gather_rows(const Assigner& sampled, const std::vector<size_t>& chosen) {
  std::vector<float> mine;
  for (const size_t i : chosen) {
    const float* row = sampled.row(static_cast<int64_t>(i));
    mine.insert(mine.end(), row, row + sampled.width());
  }
  return sampled.comm().all_gather_values<float>(mine);
}

/// Greedy k-means++: keeps only the best of the drawn rows, `chosen` locally and `added` everywhere.
void keep_best(const Assigner& sampled, const std::vector<float>& nearest, double scale,
               std::vector<size_t>& chosen, std::vector<float>& added) {
  const int64_t pick = best_candidate(sampled, added, nearest, scale);
  const auto begin = added.begin() + pick * sampled.width();
  added = std::vector<float>(begin, begin + sampled.width());
  const int64_t local = pick - sampled.comm().exclusive_scan(static_cast<int64_t>(chosen.size()));
  if (local >= 0 && local < static_cast<int64_t>(chosen.size()))
    chosen = {chosen[static_cast<size_t>(local)]};
  else
    chosen.clear();
}

}  // namespace

// k-means++ draws one seed at a time, each from the squared distances to all seeds before it: K passes over
// the data. Here a round draws an eighth of the seeds there are (the idea of k-means||, Bahmani et al.,
// 2012), so that about 8 ln K rounds do; while that is one seed, it is the best of several candidates.
std::vector<float> seed_centroids(const Assigner& rows, const KMeansConfig& config) {
  const Communicator& comm = rows.comm();
  SeedSample sample = take_sample(rows, config);
  const auto held = static_cast<int64_t>(sample.global.size());
  sample.weight.assign(sample.global.size(), 1);  // the first seed is uniform
  // Seeds compete by distance, whatever the clusters do: not spherical.
  const Assigner sampled(sample.rows.data(), held, rows.width(), comm.sum(held), config.clusters, false,
                         config.seed, comm);
  double scale = fixed_point_scale(4 * rows.largest_norm() * rows.largest_norm());
  const auto trials = 2 + static_cast<int64_t>(std::log(static_cast<double>(config.clusters)));
  Random random(config.seed, RandomStream::kmeans, config.stream * kRuns + kDraws);
  std::vector<uint8_t> used(sample.global.size(), 0);
  std::vector<float> seeds, nearest(sample.global.size(), std::numeric_limits<float>::infinity());
  for (int64_t have = 0; have < config.clusters;) {
    const int64_t batch = std::clamp<int64_t>(have / 8, 1, config.clusters - have);
    const bool greedy = batch == 1 && have > 0;
    std::vector<size_t> chosen = draw(sample, greedy ? trials : batch, random, comm);
    if (comm.sum(static_cast<int64_t>(chosen.size())) == 0)
      chosen = first_unused(sample, used, config.clusters - have, comm);
    std::vector<float> added = gather_rows(sampled, chosen);
    if (greedy) keep_best(sampled, nearest, scale, chosen, added);
    for (const size_t i : chosen) used[i] = 1;
    const auto count = static_cast<int64_t>(added.size()) / rows.width();
    nearest = lowered(sampled, added.data(), count, nearest);
    for (size_t i = 0; i < nearest.size(); ++i) {
      if (used[i] != 0) nearest[i] = 0;
    }
    // Unit vectors lie within 2 of each other; where sizes differ, the largest distance that is left decides.
    if (!config.spherical) {
      const auto most = std::max_element(nearest.begin(), nearest.end());
      scale = fixed_point_scale(comm.max(most == nearest.end() ? 0.0 : static_cast<double>(*most)));
    }
    for (size_t i = 0; i < nearest.size(); ++i) {
      sample.weight[i] = static_cast<int64_t>(static_cast<double>(nearest[i]) * scale);
    }
    seeds.insert(seeds.end(), added.begin(), added.end());
    have += count;
  }
  return seeds;
}

}  // namespace dino
