// SPDX-License-Identifier: Apache-2.0
#pragma once
// What goes into a training step, and what comes out.

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "comm/communicator.hpp"
#include "model/drop_path.hpp"
#include "tensor/tensor.hpp"

namespace dino {

/// This rank's part of the batch. B >= 1 images here, which may differ between ranks; crops are f32
/// [*, 3, H, W], on the host or on the model's device.
struct StepBatch {
  int64_t images = 0;
  ConstTensorView global_crops;  ///< [2B,...]: view 1 of all images, then view 2
  ConstTensorView local_crops;   ///< [L*B,...] crop-major; empty when L = 0
  ConstTensorView masks;         ///< u8 [2B, N] on the host
  /// No step of this rank has more masked patches than this; 0 = unknown. Work on masked patches is filled up
  /// to it with unmasked ones of no weight (or to a multiple of 64 where it is unknown), so that every step
  /// has the same shapes and, after the first ones, allocates nothing.
  int64_t masked_bound = 0;
  /// What the host does while a device computes: called once, when the work of both networks is enqueued and
  /// nothing of it has been waited for.
  std::function<void()> meanwhile = {};
};

/// What stochastic depth keeps of the images [begin, end) of this rank's, drawn for one micro-batch; an empty
/// function keeps everything.
using DropPathDraw = std::function<DropPathPlan(Range images)>;

struct StepSchedule {
  double lr = 0, last_layer_lr = 0, weight_decay = 0, momentum = 1, teacher_temperature = 0.04;
  /// The backbones of student and teacher keep their bits: no gradient is computed for them, and AdamW's
  /// moments stay zero.
  bool backbone_frozen = false;
  /// Updates of the run before the backbone's first one: its AdamW counts from there.
  int64_t frozen_updates = 0;
};

struct LossTerms {
  double total = 0;       ///< the objective
  double dino_local = 0;  ///< as it enters the objective, before its weight (the reference logs the same)
  double dino_global = 0;
  double ibot = 0;  ///< mean over the masked views' images as it enters the objective, before its weight (the
                    ///< reference logs half of it)
  double koleo = 0;  ///< sum over both views, as it enters the objective, weight included (the reference logs
                     ///< half of it)
};

/// Health of the step, computed from the teacher's targets and the student's features; global over ranks.
struct StepHealth {
  double teacher_entropy = 0;  ///< mean entropy of the DINO targets
  double information = 0;      ///< entropy of the mean target - mean entropy: 0 = collapse
  double kl = 0;               ///< mean CE - teacher entropy
  double prototype_usage = 0;  ///< fraction of prototypes that are the argmax of some row
  double feature_std = 0;  ///< mean over dimensions of the std of L2-normalised class tokens, times sqrt(D)
  double effective_rank = 0;  ///< exp(entropy of the singular-value distribution) of the global class tokens
                              ///< of view 1, at most 128 of them
};

struct StepResult {
  LossTerms losses;
  StepHealth health;
  std::vector<double> grad_norms;  ///< before clipping: backbone, then the objective's modules
  /// Of all modules.
  [[nodiscard]] double grad_norm() const {
    double squares = 0;
    for (const double norm : grad_norms) squares += norm * norm;
    return std::sqrt(squares);
  }
  bool finite = true;       ///< false on all ranks when any rank's loss or gradient is not finite
  double loss_scale = 1;    ///< that the step was computed with (loss_scale.hpp)
  bool scale_fell = false;  ///< the step was not finite, and the next one has a smaller scale
};

}  // namespace dino
