// SPDX-License-Identifier: Apache-2.0
#pragma once
// Resampling as sparse matrices: made on the host from shapes alone, applied by ops::Backend::sparse_rows.

#include <cstdint>
#include <vector>

#include "ops/context.hpp"

namespace dino {

/// ops::SparseRows on the host.
struct SparseMap {
  std::vector<int64_t> starts{0}, columns;
  std::vector<float> weights;
  void add(int64_t column, float weight) {
    columns.push_back(column);
    weights.push_back(weight);
  }
  void end_row() { starts.push_back(static_cast<int64_t>(columns.size())); }
};

/// Entries of a row keep the order of the rows that they come from: sums run in grid order. `columns`: of
/// `map`.
[[nodiscard]] SparseMap transposed(const SparseMap& map, int64_t columns);
/// In the context's arena.
[[nodiscard]] ops::SparseRows uploaded(const Context& c, const SparseMap& map);

struct GridSize {
  int64_t height = 0, width = 0;
  [[nodiscard]] int64_t pixels() const { return height * width; }
  bool operator==(const GridSize&) const = default;
};

/// Rows [first, last) of the bilinear resampling of a grid, [to pixels, from pixels], both row-major, as
/// torch.nn.functional.interpolate. align_corners: the corners' centres coincide, else the areas do, with
/// borders repeated.
[[nodiscard]] SparseMap bilinear_map(GridSize from, GridSize to, bool align_corners, int64_t first,
                                     int64_t last);

}  // namespace dino
