// SPDX-License-Identifier: Apache-2.0
#include "numeric/symmetric_eigen.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.hpp"

extern "C" void dsyev_(const char* job, const char* triangle, const int* n, double* matrix, const int* stride,
                       double* values, double* work, const int* work_size, int* info);

namespace dino {

SymmetricEigen symmetric_eigen(std::vector<double> matrix, int64_t n, bool with_vectors) {
  DINO_CHECK(static_cast<int64_t>(matrix.size()) == n * n, "not a square matrix");
  SymmetricEigen result;
  result.values.assign(static_cast<size_t>(n), std::numeric_limits<double>::quiet_NaN());
  if (with_vectors) result.vectors.assign(matrix.size(), std::numeric_limits<double>::quiet_NaN());
  const bool finite =
      std::all_of(matrix.begin(), matrix.end(), [](double value) { return std::isfinite(value); });
  if (n == 0 || !finite) return result;
  // Columns for rows: the row-major lower triangle is the upper one of Fortran, and its column i is our row
  // i.
  const int size = static_cast<int>(n);
  const int work_size = 34 * size;  // 32 columns a block, as LAPACK advises for this routine
  std::vector<double> work(static_cast<size_t>(work_size));
  int info = 0;
  dsyev_(with_vectors ? "V" : "N", "U", &size, matrix.data(), &size, result.values.data(), work.data(),
         &work_size, &info);
  DINO_CHECK(info == 0, "dsyev did not converge: " + std::to_string(info));
  std::reverse(result.values.begin(), result.values.end());
  for (int64_t i = 0; with_vectors && i < n; ++i)
    std::copy_n(matrix.data() + (n - 1 - i) * n, n, result.vectors.data() + i * n);
  return result;
}

}  // namespace dino
