// SPDX-License-Identifier: Apache-2.0
#pragma once
// AdamW on the one unit of a head that is trained on frozen features.

#include "model/parameters.hpp"
#include "ops/context.hpp"

namespace dino {

struct HeadStep {
  double lr = 1e-3, weight_decay = 1e-4, beta1 = 0.9, beta2 = 0.999;
  double clip = 0;  ///< largest norm of the gradient; 0: any
};

class HeadOptimizer {
 public:
  /// The weights as their layout draws them from the seed. The layout outlives the optimizer.
  HeadOptimizer(const Context& c, const ParameterLayout& layout, uint64_t seed);
  [[nodiscard]] UnitView weights() const { return weights_.acquire(0); }
  [[nodiscard]] UnitGradient gradient() { return gradients_.gradient(0); }
  [[nodiscard]] const ParameterStore& values() const { return weights_; }
  /// Updates the weights by the gradient, which is 0 afterwards. A gradient that is not finite changes
  /// nothing.
  void step(const Context& c, const HeadStep& settings);
  [[nodiscard]] int64_t steps() const { return steps_; }

 private:
  ParameterStore weights_, gradients_, mean_, square_;
  int64_t steps_ = 0;
};

/// A share that falls linearly to 0 after a linear rise over `warmup` steps from `start` ("poly" of power 1).
[[nodiscard]] double poly_share(int64_t step, int64_t steps, int64_t warmup, double start);
/// Falls as a cosine to `least` instead.
[[nodiscard]] double cosine_share(int64_t step, int64_t steps, int64_t warmup, double start, double least);
/// beta1 of the one-cycle rule: .95 to .85 over the first 30 % of the steps and back, as cosines.
[[nodiscard]] double one_cycle_momentum(int64_t step, int64_t steps);

}  // namespace dino
