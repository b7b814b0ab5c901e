// SPDX-License-Identifier: Apache-2.0
#pragma once
// An exact way to compute less of an inner product. With orthonormal axes that hold most of the energy of the
// data (the leading eigenvectors of its second moment), x.y <= x'.y' + |x''||y''|: x' are the leading
// coordinates, |x''| is the norm of the rest (Cauchy-Schwarz). A pair that cannot reach a threshold then
// costs an eighth of the work. Rounding is covered by `rounding()`, so a decision never depends on the axes.

#include <cstdint>
#include <vector>

namespace dino {

struct LeadingBasis {
  int64_t width = 0;        ///< d
  int64_t kept = 0;         ///< m leading coordinates; m = d: nothing is cut off and `axes` is empty
  std::vector<float> axes;  ///< [m, d], orthonormal rows

  /// From sample rows [n, d], the same on every rank. Takes the smallest m of d/8, d/4, d/2 whose rest holds
  /// at most 4 % of the energy, else m = d. The same bytes for any number of threads.
  static LeadingBasis fit(const float* sample, int64_t rows, int64_t width);
  /// The same for a join of unit rows: the smallest m whose bound lets at most a share `most` (1 - m/d) of
  /// the sample's pairs pass that do not reach the threshold. A high threshold needs little of the energy.
  static LeadingBasis fit_join(const float* sample, int64_t rows, int64_t width, double threshold,
                               double most);

  [[nodiscard]] bool cuts() const { return kept < width; }
  /// e such that every computed bound x'.y' + |x''||y''| is at least (ordered product of x and y) - e |x||y|.
  [[nodiscard]] double rounding() const;
  /// Bound of |computed x' - x'| / |x|; 0 where nothing is cut off.
  [[nodiscard]] double row_error() const;
  /// out[i * stride + 0..m) = leading coordinates, out[i * stride + m] = an upper bound of |x''|. Needs
  /// cuts() and stride > m. Uses all threads.
  void project(const float* rows, int64_t n, float* out, int64_t stride) const;
};

/// `count` distinct rows of 0..total-1, ascending, one drawn from each of `count` equal strata.
[[nodiscard]] std::vector<int64_t> stratified_rows(int64_t total, int64_t count, uint64_t seed,
                                                   uint64_t index);

}  // namespace dino
