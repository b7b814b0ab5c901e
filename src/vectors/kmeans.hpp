// SPDX-License-Identifier: Apache-2.0
#pragma once
// Lloyd's k-means with k-means++ style seeding over ranks; hierarchical with resampling (arXiv 2405.15613).
// The same bytes for any number of ranks and threads: ordered products decide, sums are fixed-point integers.
// Rows of any finite size: what f32 squares would overflow or lose is scaled by a power of two. When a stop
// is requested all ranks throw the Error of exit code 75 within an iteration.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/names.hpp"
#include "comm/communicator.hpp"
#include "tensor/tensor.hpp"

namespace dino {

struct KMeansConfig {
  int64_t clusters = 0;
  int64_t iterations = 20;
  double tolerance = 1e-4;  ///< stop when the inertia falls by less than this fraction
  bool spherical = true;    ///< centroids are normalised after each update (inputs are unit vectors)
  uint64_t seed = 0;
  uint64_t stream = 0;  ///< separates several runs of one seed (levels, resampling steps)
};

struct KMeansResult {
  Tensor centroids;                 ///< f32 [K, d], the same on all ranks
  std::vector<int64_t> assignment;  ///< of this rank's rows
  std::vector<float> distance;      ///< squared distance to the centroid, times 2^-distance_exponent
  double inertia = 0;               ///< over all ranks
  int64_t iterations = 0;
  int64_t distance_exponent = 0;  ///< 0 where f32 holds the squared distances
};
/// `local` f32 [n, d], rows laid out over ranks by even_range; K <= total rows (UsageError). Collective.
[[nodiscard]] KMeansResult kmeans(ConstTensorView local, int64_t total_rows, const KMeansConfig& config,
                                  const Communicator& comm);

struct Level {
  Tensor centroids;  ///< [K_l, d]
  std::vector<int64_t>
      assignment;  ///< level 1: this rank's rows; higher: all clusters of the level below (on every rank)
  std::vector<float> distance;  ///< as in KMeansResult
  double inertia = 0;
  int64_t iterations = 0;
  int64_t distance_exponent = 0;
};
struct HierarchyConfig {
  std::vector<int64_t> levels;  ///< clusters per level, falling
  int64_t resample = 10;        ///< resampling steps per level (0 = none)
  int64_t iterations = 20;
  bool spherical = true;
  uint64_t seed = 0;
  /// A file in which rank 0 keeps how far it is; a later call with the same rows and settings goes on there,
  /// on any number of ranks, to the same result. Removed by the caller (remove_partial) when that is written.
  /// Empty = none.
  std::string state;
};
[[nodiscard]] std::vector<Level> hierarchical_kmeans(ConstTensorView local, int64_t total_rows,
                                                     const HierarchyConfig& config, const Communicator& comm);

/// Exactly `target` rows (ascending), as evenly over the tree as its sizes allow: at every node the integer
/// cap c with sum min(c, size) <= T, and the remainder by hash order. assignments[0] = level-1 cluster of
/// every row (-1 = not available), assignments[l] = level-(l+1) cluster of each level-l cluster. DataError
/// names the shortfall when there are fewer rows than asked.
enum class SampleStrategy : uint8_t { random, closest };
constexpr auto names_of(SampleStrategy) {
  return std::to_array<Named<SampleStrategy>>(
      {{"random", SampleStrategy::random}, {"closest", SampleStrategy::closest}});
}
[[nodiscard]] std::vector<int64_t> balanced_sample(const std::vector<std::vector<int64_t>>& assignments,
                                                   const std::vector<int64_t>& clusters,
                                                   std::span<const float> distance, int64_t target,
                                                   SampleStrategy strategy, uint64_t seed);

}  // namespace dino
