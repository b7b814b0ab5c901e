// SPDX-License-Identifier: Apache-2.0
#include "numeric/symmetric_eigen.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.hpp"

extern "C" void dsyev_(const char* job, const char* triangle, const int* n, double* matrix, const int* stride,
                       double* values, double* work, const int* work_size, int* info);
extern "C" void dsyevr_(const char* job, const char* range, const char* triangle, const int* n,
                        double* matrix, const int* stride, const double* low, const double* high,
                        const int* first, const int* last, const double* tolerance, int* found,
                        double* values, double* vectors, const int* vectors_stride, int* support,
                        double* work, const int* work_size, int* integers, const int* integers_size,
                        int* info);

namespace dino {

namespace {

/// All NaN where nothing can be computed.
SymmetricEigen unknown_eigen(int64_t n, int64_t count, bool with_vectors) {
  SymmetricEigen result;
  result.values.assign(static_cast<size_t>(count), std::numeric_limits<double>::quiet_NaN());
  if (with_vectors)
    result.vectors.assign(static_cast<size_t>(count * n), std::numeric_limits<double>::quiet_NaN());
  return result;
}

bool is_finite(const std::vector<double>& matrix) {
  return std::all_of(matrix.begin(), matrix.end(), [](double value) { return std::isfinite(value); });
}

}  // namespace

SymmetricEigen symmetric_eigen(std::vector<double> matrix, int64_t n, bool with_vectors) {
  DINO_CHECK(static_cast<int64_t>(matrix.size()) == n * n, "not a square matrix");
  SymmetricEigen result = unknown_eigen(n, n, with_vectors);
  if (n == 0 || !is_finite(matrix)) return result;
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

SymmetricEigen largest_eigen(std::vector<double> matrix, int64_t n, int64_t count) {
  DINO_CHECK(static_cast<int64_t>(matrix.size()) == n * n && count <= n, "not a square matrix, or too small");
  SymmetricEigen result = unknown_eigen(n, count, true);
  if (count == 0 || !is_finite(matrix)) return result;
  const int size = static_cast<int>(n), first = static_cast<int>(n - count + 1), work_size = 34 * size,
            integers_size = 10 * size;
  const double unused = 0, tolerance = 0;  // LAPACK's own
  std::vector<double> values(static_cast<size_t>(n)), vectors(static_cast<size_t>(count * n)),
      work(static_cast<size_t>(work_size));
  std::vector<int> support(static_cast<size_t>(2 * n)), integers(static_cast<size_t>(integers_size));
  int found = 0, info = 0;
  dsyevr_("V", "I", "U", &size, matrix.data(), &size, &unused, &unused, &first, &size, &tolerance, &found,
          values.data(), vectors.data(), &size, support.data(), work.data(), &work_size, integers.data(),
          &integers_size, &info);
  DINO_CHECK(info == 0 && found == count, "dsyevr did not converge: " + std::to_string(info));
  // Rising order, and columns that are our rows.
  for (int64_t i = 0; i < count; ++i) {
    result.values[static_cast<size_t>(i)] = values[static_cast<size_t>(count - 1 - i)];
    std::copy_n(vectors.data() + (count - 1 - i) * n, n, result.vectors.data() + i * n);
  }
  return result;
}

}  // namespace dino
