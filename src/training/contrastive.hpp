// SPDX-License-Identifier: Apache-2.0
#pragma once
// Training a text tower on frozen image features (locked-image tuning, arXiv 2111.07991) by CLIP's symmetric
// contrastive loss (arXiv 2103.00020, figure 3), over the pairs of all ranks.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/text_tower.hpp"
#include "ops/context.hpp"

namespace dino {

struct ContrastiveLoss {
  double loss = 0;            ///< the mean of both directions' cross-entropies, over the global batch
  double scale_gradient = 0;  ///< of ln(scale), over the global batch
};

/// L = 1/(2B) sum_i [ CE(scale u_i V^T, i) + CE(scale v_i U^T, i) ] of the B pairs of all ranks. u, v: this
/// rank's texts and images, f32 [b, E] of unit rows, as many on every rank; pair i of both belongs together.
/// du f32 [b, E] receives the gradient of u. Every rank computes all of L: nothing but u and v travels, and
/// the gradient is that of one rank with all pairs. Collective.
[[nodiscard]] ContrastiveLoss contrastive_loss(const Context& c, ConstTensorView u, ConstTensorView v,
                                               double scale, TensorView du);

struct TextTrainingRates {
  double learning_rate = 1e-3, weight_decay = 0.1, beta1 = 0.9, beta2 = 0.98, eps = 1e-6, clip = 1.0;
};

struct TextTrainingStep {
  double loss = 0, scale = 0, gradient_norm = 0;
};

/// A text tower and its optimizer's state, whole on every rank.
class TextTraining {
 public:
  /// The model is where the context computes, equal on all ranks, and outlives this.
  TextTraining(const Context& c, TextModel& model);
  /// One AdamW step on this rank's pairs: texts, and their images f32 [texts, projection] (of any length).
  /// Where the gradient is not finite nothing changes. Collective.
  TextTrainingStep step(std::span<const std::vector<int32_t>> texts, ConstTensorView images,
                        const TextTrainingRates& rates);
  [[nodiscard]] int64_t steps() const { return steps_; }

 private:
  [[nodiscard]] double scale();
  void update(const TextTrainingRates& rates, ConstTensorView squares);

  const Context& c_;
  TextModel& model_;
  TextTower tower_;
  ParameterStore gradients_, first_, second_;  ///< the moments
  int64_t steps_ = 0;
};

}  // namespace dino
