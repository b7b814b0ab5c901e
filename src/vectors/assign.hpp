// SPDX-License-Identifier: Apache-2.0
#pragma once
// The assignment step of k-means: for every row the centroid of largest score x.c - h(c) in ordered products,
// ties to the smaller centroid. h = |c|^2 / 2 makes it the nearest centroid; h = 0 (spherical) the one of
// largest cosine. Centroids that an exact bound excludes are not computed in full, which changes no result.

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"
#include "vectors/leading.hpp"

namespace dino {

/// Centroids with what their bound needs.
struct ScoredCentroids {
  const float* data = nullptr;  ///< [count, width]
  int64_t count = 0;
  std::vector<float> half_norm;     ///< h(c)
  std::vector<float> squared_norm;  ///< |c|^2
  std::vector<float> leading;       ///< [count, kept + 2]: coordinates, norm of the rest, -h
  double norm = 0;                  ///< largest |c|
};

/// The best centroid so far of each row. A score without a centroid is a mark to beat.
struct Best {
  std::vector<float> score;
  std::vector<int64_t> centroid;  ///< -1 = none yet
  void reset(int64_t rows);
};

class Assigner {
 public:
  /// Rows of this rank, [n, width], which must outlive this; global rows go rank by rank. Collective. The
  /// bound is set up only where it pays (`clusters` is the number that rows will be compared with).
  Assigner(const float* rows, int64_t n, int64_t width, int64_t total, int64_t clusters, bool spherical,
           uint64_t seed, const Communicator& comm);

  [[nodiscard]] ScoredCentroids prepare(const float* centroids, int64_t count) const;
  /// Lets centroids with numbers first_id, first_id + 1, ... compete with the best so far. Collective, since
  /// all ranks throw the Error of exit code 75 when one is asked to stop.
  void improve(const ScoredCentroids& centroids, int64_t first_id, Best& best) const;
  /// Scores of the centroids that `best` names (a good start: the last iteration's).
  void rescore(const ScoredCentroids& centroids, Best& best) const;
  /// Squared distance to the best centroid: max(0, |x|^2 + |c|^2 - 2 x.c).
  [[nodiscard]] float squared_distance(int64_t row, const ScoredCentroids& centroids, int64_t centroid,
                                       float score) const;

  [[nodiscard]] const float* row(int64_t i) const { return rows_ + i * width_; }
  [[nodiscard]] float squared_norm(int64_t i) const { return squared_norm_[static_cast<size_t>(i)]; }
  [[nodiscard]] int64_t count() const { return n_; }
  [[nodiscard]] int64_t width() const { return width_; }
  [[nodiscard]] int64_t total() const { return total_; }
  [[nodiscard]] int64_t first() const { return first_; }
  [[nodiscard]] bool spherical() const { return spherical_; }
  [[nodiscard]] double largest_norm() const { return largest_norm_; }  ///< of |x|, over all ranks
  [[nodiscard]] const Communicator& comm() const { return comm_; }

 private:
  void improve_exact(const ScoredCentroids& centroids, int64_t first_id, Best& best) const;
  void improve_bounded(const ScoredCentroids& centroids, int64_t first_id, Best& best) const;

  const float* rows_;
  int64_t n_, width_, total_, first_;
  bool spherical_;
  const Communicator& comm_;
  LeadingBasis basis_;
  std::vector<float> leading_;       // [n, kept + 2]: coordinates, norm of the rest, 1
  std::vector<float> squared_norm_;  // |x|^2
  double largest_norm_ = 0;
};

/// The largest power of two p with p * largest <= 2^30: sums of fixed-point values |v| <= largest
/// then fit 64 bits for 2^33 terms.
[[nodiscard]] double fixed_point_scale(double largest);

}  // namespace dino
