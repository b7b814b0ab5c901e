// SPDX-License-Identifier: Apache-2.0
#pragma once
// The steps of Lloyd's algorithm over prepared rows, for the flat and the hierarchical k-means.

#include <cstdint>
#include <functional>
#include <vector>

#include "vectors/assign.hpp"
#include "vectors/kmeans.hpp"

namespace dino {

/// Seeds [K, d] by D2 sampling from a fixed sample of the rows. Collective.
[[nodiscard]] std::vector<float> seed_centroids(const Assigner& rows, const KMeansConfig& config);

/// Where an iteration begins: all that the rest of the run follows from.
struct LloydState {
  std::vector<float> centroids;  ///< [K, d]
  int64_t iterations = 0;
  double before = 0;  ///< the last iteration's inertia
};

/// k-means over rows that are already prepared; from seeds, or on from `start`. `at_iteration` (may be empty)
/// is called where each begins. Collective.
[[nodiscard]] KMeansResult run_lloyd(const Assigner& rows, const KMeansConfig& config,
                                     const LloydState* start = nullptr,
                                     const std::function<void(const LloydState&)>& at_iteration = {});

/// Fills assignment, distance and inertia for the centroids in `result`; its assignment, where it has one, is
/// the start of the search. Collective.
void assign_rows(const Assigner& rows, KMeansResult& result);

/// Rows whose squares f32 holds: those given, or a copy times a power of two.
class ScaledRows {
 public:
  /// Collective.
  ScaledRows(ConstTensorView local, const Communicator& comm);
  [[nodiscard]] const float* data() const { return data_; }
  /// Turns centroids, distances and inertia of the scaled rows into those of the given ones. `distance` stays
  /// scaled by 2^distance_exponent where f32 does not hold it on some rank. Collective.
  template <class Result>
  void undo(Result& result, const Communicator& comm) const;

 private:
  std::vector<float> copy_;
  const float* data_;
  int exponent_ = 0;  ///< data = given * 2^exponent
};

}  // namespace dino
