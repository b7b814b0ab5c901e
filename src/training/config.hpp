// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a training is made of.

#include <array>
#include <cstdint>

#include "base/names.hpp"
#include "model/head.hpp"
#include "model/vit.hpp"
#include "ops/precision.hpp"
#include "parallel/shard_plan.hpp"

namespace dino {

enum class Centering : uint8_t { sinkhorn, softmax };
constexpr auto names_of(Centering) {
  return std::to_array<Named<Centering>>(
      {{"sinkhorn", Centering::sinkhorn}, {"softmax", Centering::softmax}});
}

/// The objective of DINOv2 (arXiv 2304.07193, section 4).
struct Dinov2Config {
  HeadConfig dino_head, ibot_head;
  bool separate_ibot_head = true;  ///< false: masked patches go through the DINO head
  double dino_weight = 1.0, ibot_weight = 1.0, koleo_weight = 0.1;
  Centering centering = Centering::sinkhorn;
  int64_t sinkhorn_iterations = 3;
  double student_temperature = 0.1;
  double centre_momentum = 0.9;
};

struct OptimizerConfig {
  double clip = 3.0;  ///< L2 norm per module (backbone, each head); 0 = off
  double beta1 = 0.9, beta2 = 0.999, adam_eps = 1e-8;
  double layer_decay = 1.0, patch_embed_lr_mult = 0.2;
};

/// How a step is spread over ranks and time; what it computes does not depend on it.
struct SplitConfig {
  Strategy strategy = Strategy::replicate;
  int64_t hybrid_ranks = 0;  ///< of a hybrid's shard groups; 0 = still to be chosen
  int64_t accumulate = 1;    ///< micro-batches of a step
  Recompute recompute = Recompute::none;
  double targets_gib = 1;  ///< of a rank's targets of masked patches, kept whole at most
};

struct TrainingConfig {
  VitConfig vit;
  Dinov2Config objective;
  OptimizerConfig optimizer;
  SplitConfig split;
  int64_t local_crops = 8;
  Precision precision = Precision::f32;  ///< of the context
  /// Of gradients on their way to their sums over ranks.
  Precision reduce_precision = Precision::f32;
  double loss_scale = 65536;  ///< the first one, where one of them is f16 (loss_scale.hpp)
};

}  // namespace dino
