// SPDX-License-Identifier: Apache-2.0
#pragma once
// The steps of Lloyd's algorithm over prepared rows, for the flat and the hierarchical k-means.

#include <cstdint>
#include <vector>

#include "vectors/assign.hpp"
#include "vectors/kmeans.hpp"

namespace dino {

/// Seeds [K, d] by D2 sampling from a fixed sample of the rows. Collective.
[[nodiscard]] std::vector<float> seed_centroids(const Assigner& rows, const KMeansConfig& config);

/// k-means over rows that are already prepared. Collective.
[[nodiscard]] KMeansResult run_lloyd(const Assigner& rows, const KMeansConfig& config);

/// Fills assignment, distance and inertia for the centroids in `result`; its assignment, where it has one, is
/// the start of the search. Collective.
void assign_rows(const Assigner& rows, KMeansResult& result);

}  // namespace dino
