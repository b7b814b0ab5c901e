// SPDX-License-Identifier: Apache-2.0
#pragma once
// Principal components of patch tokens.

#include <cstdint>
#include <vector>

namespace dino {

struct PrincipalComponents {
  int64_t width = 0, count = 0;
  std::vector<double> mean;        ///< [width]
  std::vector<double> components;  ///< [count, width], orthonormal, largest variance first
  std::vector<double> variance;    ///< [count]
  double total_variance = 0;
  /// Scores of one row.
  void project(const float* row, double* scores) const;
};

/// The first `count` components of x [rows, width]: eigenvectors of the covariance. The sign of each makes
/// its largest loading positive, so pictures of equal data are equal. `keep` (empty = all) marks the rows
/// that count.
[[nodiscard]] PrincipalComponents principal_components(const float* x, int64_t rows, int64_t width,
                                                       int64_t count, const std::vector<uint8_t>& keep = {});

/// Otsu's threshold (1979): splits values into two classes of largest between-class variance.
[[nodiscard]] double otsu_threshold(const std::vector<double>& values);

}  // namespace dino
