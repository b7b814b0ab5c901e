// SPDX-License-Identifier: Apache-2.0
#include "numeric/principal_components.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.hpp"
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

}  // namespace

PrincipalComponents principal_components(const float* x, int64_t rows, int64_t width, int64_t count,
                                         const std::vector<uint8_t>& keep) {
  PrincipalComponents pca;
  pca.width = width;
  pca.count = std::min(count, width);
  std::vector<double> matrix = covariance(x, rows, width, keep, pca.mean);
  for (int64_t d = 0; d < width; ++d) pca.total_variance += matrix[static_cast<size_t>(d * width + d)];
  SymmetricEigen eigen = largest_eigen(std::move(matrix), width, pca.count);
  pca.variance = std::move(eigen.values);
  pca.components = std::move(eigen.vectors);
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
