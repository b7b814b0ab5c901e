// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inverted lists: a spherical k-means of a sample decides, rows go to the lists of largest ordered product.

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"

namespace dino {

/// Centroids [lists, width] by FAISS's Clustering over `sample` [n, width], n >= lists, which every rank
/// holds. Collective: the ranks share the assignment steps. The same bytes for any number of ranks and
/// threads.
[[nodiscard]] std::vector<float> train_lists(const float* sample, int64_t n, int64_t width, int64_t lists,
                                             int64_t iterations, uint64_t seed, const Communicator& comm);

struct NearestLists {
  std::vector<int32_t> list;   ///< [n, probes], best first
  std::vector<float> product;  ///< of the row and that list's centroid, up to rounding
};

/// The `probes` lists of largest ordered product of every row, best first; ties go to the smaller list.
/// rows [n, width] with a row stride. Rows and centroids are no longer than 1. When a stop is requested the
/// rest is left undone: the caller asks.
[[nodiscard]] NearestLists nearest_lists(const float* rows, int64_t n, int64_t stride, int64_t width,
                                         const std::vector<float>& centroids, int64_t probes);

}  // namespace dino
