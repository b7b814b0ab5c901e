// SPDX-License-Identifier: Apache-2.0
#include "numeric/normalized_cut.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "numeric/symmetric_eigen.hpp"

namespace dino {

NormalizedCut normalized_cut(std::span<const float> features, int64_t patches, double threshold) {
  DINO_CHECK(patches >= 2 && static_cast<int64_t>(features.size()) % patches == 0, "at least two patches");
  const auto n = static_cast<size_t>(patches);
  const size_t width = features.size() / n;
  constexpr double kApart = 1e-5;
  std::vector<double> length(n), weights(n * n), degree(n);
  const auto dot = [&](size_t a, size_t b) {
    double sum = 0;
    for (size_t c = 0; c < width; ++c)
      sum += static_cast<double>(features[a * width + c]) * static_cast<double>(features[b * width + c]);
    return sum;
  };
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < n; ++i) length[i] = std::sqrt(dot(i, i));
#pragma omp parallel for schedule(dynamic)
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j <= i; ++j)
      weights[i * n + j] = dot(i, j) > threshold * length[i] * length[j] ? 1 : kApart;
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < i; ++j) weights[j * n + i] = weights[i * n + j];
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) degree[i] += weights[i * n + j];
  // D^-1/2 W D^-1/2 has the eigenvectors D^1/2 y, and 1 - lambda for eigenvalues.
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) weights[i * n + j] /= std::sqrt(degree[i] * degree[j]);
  const SymmetricEigen eigen = symmetric_eigen(std::move(weights), patches, true);
  NormalizedCut out;
  out.vector.resize(n);
  double mean = 0;
  for (size_t i = 0; i < n; ++i) {
    out.vector[i] = eigen.vectors[n + i] / std::sqrt(degree[i]);
    mean += out.vector[i] / static_cast<double>(n);
    if (std::abs(out.vector[i]) > std::abs(out.vector[static_cast<size_t>(out.seed)]))
      out.seed = static_cast<int64_t>(i);
  }
  const bool above = out.vector[static_cast<size_t>(out.seed)] > mean;
  out.foreground.resize(n);
  for (size_t i = 0; i < n; ++i) out.foreground[i] = (out.vector[i] > mean) == above ? 1 : 0;
  return out;
}

}  // namespace dino
