// SPDX-License-Identifier: Apache-2.0
#include "numeric/symmetric_eigen.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/random.hpp"

namespace dino {
namespace {

TEST(SymmetricEigen, OfAMatrixMadeFromItsSpectrum) {
  const int64_t n = 23;
  // A = H D H with a Householder reflector H = I - 2 w w^T has the spectrum D.
  Random random(4, RandomStream::test, 0);
  std::vector<double> w, spectrum;
  double length = 0;
  for (int64_t i = 0; i < n; ++i) {
    w.push_back(random.normal());
    length += w.back() * w.back();
    spectrum.push_back(i < 3 ? 2.0 : 0.5 * static_cast<double>(i * i) - 20);  // with a multiple eigenvalue
  }
  const auto h = [&](size_t i, size_t j) { return (i == j ? 1.0 : 0.0) - 2 * w[i] * w[j] / length; };
  std::vector<double> a;
  for (size_t i = 0; i < w.size(); ++i)
    for (size_t j = 0; j < w.size(); ++j) {
      double sum = 0;
      for (size_t k = 0; k < w.size(); ++k) sum += h(i, k) * spectrum[k] * h(k, j);
      a.push_back(sum);
    }
  const SymmetricEigen eigen = symmetric_eigen(a, n, true);
  const std::vector<double>& values = eigen.values;
  EXPECT_TRUE(symmetric_eigen(a, n, false).vectors.empty());
  std::sort(spectrum.rbegin(), spectrum.rend());
  for (size_t e = 0; e < values.size(); ++e) {
    EXPECT_NEAR(values[e], spectrum[e], 1e-9);
    const double* vector = eigen.vectors.data() + e * w.size();
    double norm = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      double product = 0;
      for (size_t j = 0; j < w.size(); ++j) product += a[i * w.size() + j] * vector[j];
      EXPECT_NEAR(product, values[e] * vector[i], 1e-9);
      norm += vector[i] * vector[i];
    }
    EXPECT_NEAR(norm, 1, 1e-12);
  }
}

TEST(SymmetricEigen, SmallAndDegenerateMatrices) {
  EXPECT_NEAR(symmetric_eigen({3.0}, 1, false).values[0], 3.0, 1e-12);
  const std::vector<double> two =
      symmetric_eigen({2, 0, 1, 2}, 2, false).values;  // only the lower triangle is read
  EXPECT_NEAR(two[0], 3.0, 1e-12);
  EXPECT_NEAR(two[1], 1.0, 1e-12);
  for (const double value : symmetric_eigen(std::vector<double>(16, 0.0), 4, false).values)
    EXPECT_NEAR(value, 0, 1e-300);
  EXPECT_TRUE(std::isnan(symmetric_eigen({NAN, 0, 0, 1}, 2, false).values[0]));
}

}  // namespace
}  // namespace dino
