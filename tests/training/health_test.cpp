// SPDX-License-Identifier: Apache-2.0
#include "training/health.hpp"
#include "host_place.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include <cmath>

#include "base/random.hpp"

namespace dino {
namespace {

struct Targets {
  double mean_entropy, entropy_of_mean, usage;
};

Targets health_of(const Tensor& targets) {
  HostPlace host;
  Tensor entropy(Shape{1}, DType::f64), of_mean(Shape{2}, DType::f64);
  target_health(host.c, targets, targets.shape()[0], entropy, of_mean);
  return {entropy.as<double>()[0] / static_cast<double>(targets.shape()[0]), of_mean.as<double>()[0],
          of_mean.as<double>()[1]};
}

TEST(TargetHealth, TellsCollapseFromInformation) {
  const int64_t rows = 4, k = 16;
  Tensor targets(Shape{rows, k});
  for (float& value : targets.f32()) value = 1.0F / static_cast<float>(k);
  Targets health = health_of(targets);
  EXPECT_NEAR(health.mean_entropy, std::log(16.0), 1e-5);
  EXPECT_NEAR(health.entropy_of_mean - health.mean_entropy, 0.0, 1e-5);
  EXPECT_NEAR(health.usage, 1.0 / 16, 1e-12);

  for (float& value : targets.f32()) value = 0;
  for (int64_t r = 0; r < rows; ++r) targets.as<float>()[r * k + 3 * r] = 1.0F;
  health = health_of(targets);
  EXPECT_NEAR(health.mean_entropy, 0.0, 1e-6);
  EXPECT_NEAR(health.entropy_of_mean, std::log(4.0), 1e-6);
  EXPECT_NEAR(health.usage, 4.0 / 16, 1e-12);
}

double rank_of(ConstTensorView unit) {
  HostPlace host;
  const TensorView products = spaced_products(host.c, unit);
  return effective_rank(products.f32(), products.dim(0));
}

TEST(EffectiveRank, RunsFromOneDirectionToAllOfThem) {
  const int64_t rows = 8, width = 32;
  Tensor same(Shape{rows, width});
  for (float& value : same.f32()) value = static_cast<float>(1 / std::sqrt(32.0));
  EXPECT_NEAR(rank_of(same), 1.0, 1e-3);

  Tensor spread(Shape{rows, width});
  for (int64_t r = 0; r < rows; ++r) spread.as<float>()[r * width + r] = 1.0F;
  EXPECT_NEAR(rank_of(spread), 8.0, 1e-4);

  Tensor sphere(Shape{500, width}), norm(Shape{500});
  Random random(2, RandomStream::test, 1);
  for (float& value : sphere.f32()) value = static_cast<float>(random.normal());
  HostPlace host;
  host.c.ops.l2_normalize(host.c.stream, sphere, 1e-8F, sphere, norm);
  EXPECT_GT(rank_of(sphere), 29.0);
  EXPECT_LE(rank_of(sphere), 32.0);
  Tensor spread_out(Shape{1}, DType::f64);
  host.c.ops.mean_column_std(host.c.stream, sphere, spread_out);
  EXPECT_NEAR(spread_out.as<double>()[0] * std::sqrt(static_cast<double>(width)), 1.0, 0.02);
}

}  // namespace
}  // namespace dino
