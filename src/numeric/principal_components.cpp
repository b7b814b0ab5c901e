// SPDX-License-Identifier: Apache-2.0
#include "numeric/principal_components.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.hpp"
#include "base/random.hpp"
#include "numeric/symmetric_eigen.hpp"

namespace dino {

void PrincipalComponents::project(const float* row, double* scores) const {
  for (int64_t c = 0; c < count; ++c) {
    double sum = 0;
    for (int64_t d = 0; d < width; ++d)
      sum += (static_cast<double>(row[d]) - mean[static_cast<size_t>(d)]) *
             components[static_cast<size_t>(c * width + d)];
    scores[c] = sum;
  }
}

namespace {

/// Gram-Schmidt, twice, on rows [m, n]. A row that vanishes is left as zeros.
void orthonormalize(std::vector<double>& rows, int64_t m, int64_t n) {
  for (int64_t i = 0; i < m; ++i) {
    double* row = rows.data() + i * n;
    for (int pass = 0; pass < 2; ++pass)
      for (int64_t j = 0; j < i; ++j) {
        const double* other = rows.data() + j * n;
        const double dot = std::inner_product(row, row + n, other, 0.0);
        for (int64_t d = 0; d < n; ++d) row[d] -= dot * other[d];
      }
    const double norm = std::sqrt(std::inner_product(row, row + n, row, 0.0));
    for (int64_t d = 0; d < n; ++d) row[d] = norm > 1e-300 ? row[d] / norm : 0;
  }
}

std::vector<double> covariance(const float* x, int64_t rows, int64_t width, const std::vector<uint8_t>& keep,
                               std::vector<double>& mean) {
  std::vector<int64_t> used;
  for (int64_t r = 0; r < rows; ++r)
    if (keep.empty() || keep[static_cast<size_t>(r)] != 0) used.push_back(r);
  DINO_CHECK(!used.empty(), "no rows for principal components");
  mean.assign(static_cast<size_t>(width), 0);
  for (const int64_t r : used)
    for (int64_t d = 0; d < width; ++d) mean[static_cast<size_t>(d)] += static_cast<double>(x[r * width + d]);
  for (double& m : mean) m /= static_cast<double>(used.size());
  std::vector<double> out(static_cast<size_t>(width * width));
  // Each thread owns rows of the result and adds samples in order: the same sums for any number of threads.
#pragma omp parallel for schedule(dynamic, 8)
  for (int64_t i = 0; i < width; ++i) {
    double* to = out.data() + i * width;
    for (const int64_t r : used) {
      const float* row = x + r * width;
      const double xi = static_cast<double>(row[i]) - mean[static_cast<size_t>(i)];
      for (int64_t j = i; j < width; ++j)
        to[j] += xi * (static_cast<double>(row[j]) - mean[static_cast<size_t>(j)]);
    }
  }
  for (int64_t i = 0; i < width; ++i)
    for (int64_t j = i; j < width; ++j)
      out[static_cast<size_t>(j * width + i)] = out[static_cast<size_t>(i * width + j)] /=
          static_cast<double>(used.size());
  return out;
}

/// out [m, n] = rows [m, n] times the symmetric matrix [n, n].
std::vector<double> multiply(const std::vector<double>& rows, const std::vector<double>& matrix, int64_t m,
                             int64_t n) {
  std::vector<double> out(rows.size());
#pragma omp parallel for
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i < m; ++i)
      out[static_cast<size_t>(i * n + j)] =
          std::inner_product(rows.data() + i * n, rows.data() + (i + 1) * n, matrix.data() + j * n, 0.0);
  return out;
}

}  // namespace

PrincipalComponents principal_components(const float* x, int64_t rows, int64_t width, int64_t count,
                                         const std::vector<uint8_t>& keep) {
  PrincipalComponents pca;
  pca.width = width;
  pca.count = std::min(count, width);
  const std::vector<double> matrix = covariance(x, rows, width, keep, pca.mean);
  for (int64_t d = 0; d < width; ++d) pca.total_variance += matrix[static_cast<size_t>(d * width + d)];
  // A few more directions than wanted make the wanted ones converge at the ratio to the first unwanted one.
  const int64_t m = std::min(width, pca.count + 8);
  std::vector<double> basis(static_cast<size_t>(m * width));
  Random random(0, RandomStream::probe, 3);
  for (double& b : basis) b = random.normal();
  orthonormalize(basis, m, width);
  std::vector<double> values, previous(static_cast<size_t>(m));
  for (int iteration = 0; iteration < 500; ++iteration) {
    const std::vector<double> image = multiply(basis, matrix, m, width);
    std::vector<double> small(static_cast<size_t>(m * m));
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < m; ++j)
        small[static_cast<size_t>(i * m + j)] = std::inner_product(
            basis.data() + i * width, basis.data() + (i + 1) * width, image.data() + j * width, 0.0);
    const SymmetricEigen eigen = symmetric_eigen(std::move(small), m, true);
    values = eigen.values;
    std::fill(basis.begin(), basis.end(), 0.0);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < m; ++j)
        for (int64_t d = 0; d < width; ++d)
          basis[static_cast<size_t>(i * width + d)] +=
              eigen.vectors[static_cast<size_t>(i * m + j)] * image[static_cast<size_t>(j * width + d)];
    orthonormalize(basis, m, width);
    double change = 0;
    for (int64_t i = 0; i < pca.count; ++i)
      change = std::max(change, std::abs(values[static_cast<size_t>(i)] - previous[static_cast<size_t>(i)]));
    // Values converge with the square of the vectors' error.
    if (iteration > 4 && change <= 1e-15 * values[0]) break;
    previous = values;
  }
  pca.variance.assign(values.begin(), values.begin() + pca.count);
  pca.components.assign(basis.begin(), basis.begin() + pca.count * width);
  for (int64_t c = 0; c < pca.count; ++c) {
    double* row = pca.components.data() + c * width;
    const double* largest =
        std::max_element(row, row + width, [](double p, double q) { return std::abs(p) < std::abs(q); });
    if (*largest < 0)
      for (int64_t d = 0; d < width; ++d) row[d] = -row[d];
  }
  return pca;
}

double otsu_threshold(const std::vector<double>& values) {
  if (values.empty()) return 0;
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const double n = static_cast<double>(sorted.size()),
               all = std::accumulate(sorted.begin(), sorted.end(), 0.0);
  double below = 0, best = -1, threshold = sorted.front();
  for (size_t i = 0; i + 1 < sorted.size(); ++i) {
    below += sorted[i];
    if (sorted[i] == sorted[i + 1]) continue;
    const double count = static_cast<double>(i + 1), distance = below / count - (all - below) / (n - count);
    const double between = count * (n - count) * distance * distance;
    if (between > best) {
      best = between;
      threshold = 0.5 * (sorted[i] + sorted[i + 1]);
    }
  }
  return threshold;
}

}  // namespace dino
