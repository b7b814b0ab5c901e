// SPDX-License-Identifier: Apache-2.0
#include "training/health.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include <cmath>

#include "base/random.hpp"

namespace dino {
namespace {

TEST(Eigenvalues, OfAMatrixMadeFromItsSpectrum) {
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
  const std::vector<double> values = symmetric_eigenvalues(a, n);
  std::sort(spectrum.begin(), spectrum.end());
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], spectrum[i], 1e-9);
}

TEST(Eigenvalues, SmallAndDegenerateMatrices) {
  EXPECT_NEAR(symmetric_eigenvalues({3.0}, 1)[0], 3.0, 1e-12);
  const std::vector<double> two = symmetric_eigenvalues({2, 0, 1, 2}, 2);  // only the lower triangle is read
  EXPECT_NEAR(two[0], 1.0, 1e-12);
  EXPECT_NEAR(two[1], 3.0, 1e-12);
  for (const double value : symmetric_eigenvalues(std::vector<double>(16, 0.0), 4))
    EXPECT_NEAR(value, 0, 1e-300);
  EXPECT_TRUE(std::isnan(symmetric_eigenvalues({NAN, 0, 0, 1}, 2)[0]));
}

TEST(TargetHealth, TellsCollapseFromInformation) {
  const Communicator self = Communicator::self();
  Arena arena;
  const int64_t rows = 4, k = 16;
  Tensor targets(Shape{rows, k});
  for (float& value : targets.f32()) value = 1.0F / static_cast<float>(k);
  TargetHealth health = target_health(targets, self, arena, ops::backend());
  EXPECT_NEAR(health.mean_entropy, std::log(16.0), 1e-5);
  EXPECT_NEAR(health.entropy_of_mean - health.mean_entropy, 0.0, 1e-5);
  EXPECT_NEAR(health.usage, 1.0 / 16, 1e-12);

  targets.view().zero();
  for (int64_t r = 0; r < rows; ++r) targets.as<float>()[r * k + 3 * r] = 1.0F;
  health = target_health(targets, self, arena, ops::backend());
  EXPECT_NEAR(health.mean_entropy, 0.0, 1e-6);
  EXPECT_NEAR(health.entropy_of_mean, std::log(4.0), 1e-6);
  EXPECT_NEAR(health.usage, 4.0 / 16, 1e-12);
}

TEST(FeatureHealth, RunsFromOneDirectionToAllOfThem) {
  Arena arena;
  const int64_t rows = 8, width = 32;
  Tensor same(Shape{1, 2, rows, width});
  for (float& value : same.f32()) value = static_cast<float>(1 / std::sqrt(32.0));
  FeatureHealth health = feature_health({same, {rows}}, arena, ops::backend());
  EXPECT_NEAR(health.std, 0.0, 1e-3);
  EXPECT_NEAR(health.effective_rank, 1.0, 1e-3);

  // Two ranks, orthogonal rows: rank = number of rows of view 1.
  Tensor spread(Shape{2, 2, rows / 2, width});
  for (int64_t r = 0; r < 2 * rows; ++r) spread.as<float>()[r * width + r] = 1.0F;
  EXPECT_NEAR(feature_health({spread, {4, 4}}, arena, ops::backend()).effective_rank, 8.0, 1e-4);

  Tensor sphere(Shape{1, 2, 500, width}), norm(Shape{1000});
  Random random(2, RandomStream::test, 1);
  for (float& value : sphere.f32()) value = static_cast<float>(random.normal());
  const TensorView flat = sphere.view().reshaped(Shape{1000, width});
  ops::backend().l2_normalize(flat, 1e-8F, flat, norm);
  health = feature_health({sphere, {500}}, arena, ops::backend());
  EXPECT_NEAR(health.std, 1.0, 0.02);
  EXPECT_GT(health.effective_rank, 29.0);
  EXPECT_LE(health.effective_rank, 32.0);
}

}  // namespace
}  // namespace dino
