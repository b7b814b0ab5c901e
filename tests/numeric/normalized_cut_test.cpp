// SPDX-License-Identifier: Apache-2.0
#include "numeric/normalized_cut.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "base/random.hpp"

namespace dino {
namespace {

TEST(NormalizedCut, FindsTheSmallGroup) {
  // 40 patches of a background and 12 of an object, at random places, around two directions.
  Random random(8, RandomStream::test, 0);
  const int64_t patches = 52, width = 16;
  const auto order = permutation(random, patches);
  std::vector<uint8_t> object(static_cast<size_t>(patches));
  for (size_t i = 0; i < 12; ++i) object[static_cast<size_t>(order[i])] = 1;
  std::vector<float> features;
  for (int64_t p = 0; p < patches; ++p)
    for (int64_t c = 0; c < width; ++c)
      features.push_back(static_cast<float>(random.normal() * 0.15 +
                                            ((c < 8) == (object[static_cast<size_t>(p)] != 0) ? 1 : 0)));
  const NormalizedCut cut = normalized_cut(features, patches);
  EXPECT_EQ(cut.foreground, object);
  EXPECT_EQ(object[static_cast<size_t>(cut.seed)], 1);
}

TEST(NormalizedCut, SolvesItsEquation) {
  // Random patches of few features: cosines on both sides of the threshold.
  Random random(9, RandomStream::test, 0);
  const size_t n = 30, width = 3;
  std::vector<float> x;
  for (size_t i = 0; i < n * width; ++i) x.push_back(static_cast<float>(random.normal()));
  const NormalizedCut cut = normalized_cut(x, n, 0.2);
  std::vector<std::vector<double>> w(n, std::vector<double>(n));
  std::vector<double> d(n), left(n);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) {
      double dot = 0, a = 0, b = 0;
      for (size_t c = 0; c < width; ++c) {
        const double u = static_cast<double>(x[i * width + c]), v = static_cast<double>(x[j * width + c]);
        dot += u * v, a += u * u, b += v * v;
      }
      w[i][j] = dot / std::sqrt(a * b) > 0.2 ? 1 : 1e-5;
      d[i] += w[i][j];
    }
  // y^T (D - W) y is lambda for y^T D y = 1; y is orthogonal to the trivial solution: sum_i d_i y_i = 0.
  double lambda = 0, norm = 0, trivial = 0;
  for (size_t i = 0; i < n; ++i) {
    left[i] = d[i] * cut.vector[i];
    for (size_t j = 0; j < n; ++j) left[i] -= w[i][j] * cut.vector[j];
    lambda += cut.vector[i] * left[i];
    norm += d[i] * cut.vector[i] * cut.vector[i];
    trivial += d[i] * cut.vector[i];
  }
  EXPECT_NEAR(norm, 1, 1e-9);
  EXPECT_NEAR(trivial, 0, 1e-9);
  for (size_t i = 0; i < n; ++i) EXPECT_NEAR(left[i], lambda * d[i] * cut.vector[i], 1e-9) << i;
  EXPECT_GT(lambda, 1e-4);
  EXPECT_LT(lambda, 1.2);
}

TEST(NormalizedCut, PatchesAllAlikeHaveAnAnswer) {
  const std::vector<float> alike(9 * 4, 1.0F), zero(9 * 4, 0.0F);
  EXPECT_EQ(normalized_cut(alike, 9).foreground.size(), 9U);
  EXPECT_EQ(normalized_cut(zero, 9).foreground.size(), 9U);
}

}  // namespace
}  // namespace dino
