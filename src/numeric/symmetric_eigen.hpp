// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace dino {

struct SymmetricEigen {
  std::vector<double> values;   ///< largest first
  std::vector<double> vectors;  ///< [n, n], row i belongs to values[i]; empty unless they were asked for
};

/// Of a symmetric n x n matrix, row-major; values follow from its lower triangle alone (LAPACK's dsyev). All
/// values (and vectors) are NaN where any element is not finite.
[[nodiscard]] SymmetricEigen symmetric_eigen(std::vector<double> matrix, int64_t n, bool with_vectors);

/// The `count` largest values of it and their vectors alone [count, n], which is far less work (dsyevr).
[[nodiscard]] SymmetricEigen largest_eigen(std::vector<double> matrix, int64_t n, int64_t count);

}  // namespace dino
