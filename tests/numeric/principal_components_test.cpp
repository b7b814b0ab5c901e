// SPDX-License-Identifier: Apache-2.0
#include "numeric/principal_components.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/random.hpp"
#include "numeric/symmetric_eigen.hpp"

namespace dino {
namespace {

/// Rows with a few strong directions and noise.
std::vector<float> sample(int64_t rows, int64_t width, uint64_t seed) {
  Random random(seed, RandomStream::test, 1);
  std::vector<double> directions(static_cast<size_t>(4 * width));
  for (double& d : directions) d = random.normal();
  std::vector<float> x(static_cast<size_t>(rows * width));
  for (int64_t r = 0; r < rows; ++r) {
    double scores[4];
    for (int c = 0; c < 4; ++c) scores[c] = random.normal() * (4 - c);
    for (int64_t d = 0; d < width; ++d) {
      double v = 0.3 * random.normal() + 5;
      for (int c = 0; c < 4; ++c) v += scores[c] * directions[static_cast<size_t>(c * width + d)];
      x[static_cast<size_t>(r * width + d)] = static_cast<float>(v);
    }
  }
  return x;
}

TEST(Principal, EqualsTheNaiveEigenSolution) {
  for (const int64_t width : {2, 3, 17, 40}) {
    const int64_t rows = 200;
    const std::vector<float> x = sample(rows, width, static_cast<uint64_t>(width));
    std::vector<double> mean(static_cast<size_t>(width)), matrix(static_cast<size_t>(width * width));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < width; ++d)
        mean[static_cast<size_t>(d)] +=
            static_cast<double>(x[static_cast<size_t>(r * width + d)]) / static_cast<double>(rows);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < width; ++i)
        for (int64_t j = 0; j < width; ++j)
          matrix[static_cast<size_t>(i * width + j)] +=
              (static_cast<double>(x[static_cast<size_t>(r * width + i)]) - mean[static_cast<size_t>(i)]) *
              (static_cast<double>(x[static_cast<size_t>(r * width + j)]) - mean[static_cast<size_t>(j)]) /
              static_cast<double>(rows);
    const auto [values, vectors] = symmetric_eigen(matrix, width, true);
    const PrincipalComponents pca = principal_components(x.data(), rows, width, 3);
    ASSERT_EQ(pca.count, std::min<int64_t>(3, width));
    for (int64_t c = 0; c < pca.count; ++c) {
      EXPECT_NEAR(pca.variance[static_cast<size_t>(c)] / values[static_cast<size_t>(c)], 1, 1e-9) << width;
      double dot = 0;
      for (int64_t d = 0; d < width; ++d)
        dot +=
            pca.components[static_cast<size_t>(c * width + d)] * vectors[static_cast<size_t>(c * width + d)];
      EXPECT_NEAR(std::abs(dot), 1, 1e-6) << width << " component " << c;
    }
  }
}

TEST(Principal, SignAndRowChoiceAreFixed) {
  const int64_t rows = 120, width = 12;
  std::vector<float> x = sample(rows, width, 5);
  const PrincipalComponents a = principal_components(x.data(), rows, width, 3);
  for (int64_t c = 0; c < 3; ++c) {
    double largest = 0;
    for (int64_t d = 0; d < width; ++d)
      if (const double v = a.components[static_cast<size_t>(c * width + d)]; std::abs(v) > std::abs(largest))
        largest = v;
    EXPECT_GT(largest, 0);
  }
  // Rows that do not count change nothing.
  std::vector<uint8_t> keep(static_cast<size_t>(rows), 1);
  for (int64_t i = 0; i < 3; ++i) x.insert(x.end(), static_cast<size_t>(width), 1e4F), keep.push_back(0);
  const PrincipalComponents b = principal_components(x.data(), rows + 3, width, 3, keep);
  EXPECT_EQ(a.components, b.components);
}

TEST(Principal, ConstantRowsHaveNoVariance) {
  const std::vector<float> x(50, 3.0F);
  const PrincipalComponents pca = principal_components(x.data(), 10, 5, 3);
  for (const double v : pca.variance) EXPECT_EQ(v, 0);
  double scores[3];
  pca.project(x.data(), scores);
  for (const double s : scores) EXPECT_EQ(s, 0);
}

TEST(Otsu, SeparatesTwoHeaps) {
  std::vector<double> values;
  for (int i = 0; i < 50; ++i) values.push_back(i * 0.01), values.push_back(10 + i * 0.02);
  const double t = otsu_threshold(values);
  EXPECT_GT(t, 0.49);
  EXPECT_LT(t, 10);
  EXPECT_EQ(otsu_threshold({}), 0);
  EXPECT_EQ(otsu_threshold({4, 4}), 4);
}

}  // namespace
}  // namespace dino
