// SPDX-License-Identifier: Apache-2.0
#include "training/head_optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace dino {
namespace {

constexpr float kAdamEps = 1e-8F;

/// mmcv's linear warm-up: of the scheduled rate, start at the first step, 1 after `warmup` steps.
double warm_share(int64_t step, int64_t warmup, double start) {
  if (step >= warmup) return 1;
  return 1 - (1 - static_cast<double>(step) / static_cast<double>(warmup)) * (1 - start);
}

/// From a to b as half a cosine, at in [0, 1].
double half_cosine(double a, double b, double at) {
  return b + (a - b) * 0.5 * (1 + std::cos(std::numbers::pi * at));
}

}  // namespace

HeadOptimizer::HeadOptimizer(const Context& c, const ParameterLayout& layout, uint64_t seed)
    : weights_(layout, c.ops.memory()),
      gradients_(layout, c.ops.memory()),
      mean_(layout, c.ops.memory()),
      square_(layout, c.ops.memory()) {
  ParameterStore drawn(layout);
  drawn.initialize(seed);
  weights_.copy_from(c.stream, drawn);
  c.stream.synchronize();
}

void HeadOptimizer::step(const Context& c, const HeadStep& settings) {
  const Arena::Scope scope(c.arena);
  const TensorView gradient = gradients_.unit(0);
  const TensorView squares = c.arena.zeros(c.stream, {1}, DType::f64), factor = c.arena.make({1}),
                   finite = c.arena.make({1});
  c.ops.sum_of_squares(c.stream, gradient, squares);
  c.ops.all_finite(c.stream, squares, finite);
  c.ops.clip_factors(c.stream, squares, 1, settings.clip, factor);
  const ops::Backend::AdamW adamw{
      static_cast<float>(settings.lr),           static_cast<float>(settings.beta1),
      static_cast<float>(settings.beta2),        kAdamEps,
      static_cast<float>(settings.weight_decay), ++steps_};
  c.ops.adamw(c.stream, weights_.unit(0), gradient, mean_.unit(0), square_.unit(0), adamw, factor, finite,
              {});
  gradients_.zero(c.stream);
}

double poly_share(int64_t step, int64_t steps, int64_t warmup, double start) {
  return (1 - static_cast<double>(step) / static_cast<double>(steps)) * warm_share(step, warmup, start);
}

double cosine_share(int64_t step, int64_t steps, int64_t warmup, double start, double least) {
  return half_cosine(1, least, static_cast<double>(step) / static_cast<double>(steps)) *
         warm_share(step, warmup, start);
}

double one_cycle_momentum(int64_t step, int64_t steps) {
  constexpr double kMost = 0.95, kLeast = 0.85, kRise = 0.3;
  const double at = static_cast<double>(step) / static_cast<double>(std::max<int64_t>(steps - 1, 1));
  return at < kRise ? half_cosine(kMost, kLeast, at / kRise)
                    : half_cosine(kLeast, kMost, (at - kRise) / (1 - kRise));
}

}  // namespace dino
