// SPDX-License-Identifier: Apache-2.0
#pragma once
// One self-distillation step: student and teacher, DINO + iBOT + KoLeo, optimizer, EMA (arXiv 2304.07193;
// reference SSLMetaArch).

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/names.hpp"
#include "comm/communicator.hpp"
#include "model/head.hpp"
#include "model/vit.hpp"
#include "ops/context.hpp"

namespace dino {

enum class Centering : uint8_t { sinkhorn, softmax };
constexpr auto names_of(Centering) {
  return std::to_array<Named<Centering>>(
      {{"sinkhorn", Centering::sinkhorn}, {"softmax", Centering::softmax}});
}

struct SslConfig {
  VitConfig vit;
  HeadConfig dino_head, ibot_head;
  bool separate_ibot_head = true;  ///< false: masked patches go through the DINO head
  double dino_weight = 1.0, ibot_weight = 1.0, koleo_weight = 0.1;
  Centering centering = Centering::sinkhorn;
  int64_t sinkhorn_iterations = 3;
  double student_temperature = 0.1;
  double centre_momentum = 0.9;
  double clip = 3.0;  ///< L2 norm per module (backbone, dino_head, ibot_head); 0 = off
  double beta1 = 0.9, beta2 = 0.999, adam_eps = 1e-8;
  double layer_decay = 1.0, patch_embed_lr_mult = 0.2;
  int64_t local_crops = 8;
  Precision precision = Precision::f32;  ///< of the context
};

/// The multipliers of one parameter (reference get_params_groups_with_decay).
struct ParameterGroup {
  double lr_multiplier = 1, wd_multiplier = 1;
  bool is_last_layer = false;
  bool operator==(const ParameterGroup&) const = default;
};
[[nodiscard]] ParameterGroup parameter_group(const std::string& full_name, int64_t depth, double layer_decay,
                                             double patch_embed_lr_mult);

/// This rank's part of the batch. B >= 1 images here, which may differ between ranks; crops are f32
/// [*, 3, H, W], on the host or on the model's device.
struct SslBatch {
  int64_t images = 0;
  ConstTensorView global_crops;  ///< [2B,...]: view 1 of all images, then view 2
  ConstTensorView local_crops;   ///< [L*B,...] crop-major; empty when L = 0
  ConstTensorView masks;         ///< u8 [2B, N] on the host
  /// No step of this rank has more masked patches than this; 0 = unknown. Work on masked patches is filled up
  /// to it with unmasked ones of no weight (or to a multiple of 64 where it is unknown), so that every step
  /// has the same shapes and, after the first ones, allocates nothing.
  int64_t masked_bound = 0;
};

struct SslSchedule {
  double lr = 0, last_layer_lr = 0, weight_decay = 0, momentum = 1, teacher_temperature = 0.04;
  /// The backbones of student and teacher keep their bits: no gradient is computed for them, and AdamW's
  /// moments stay zero.
  bool backbone_frozen = false;
  /// Updates of the run before the backbone's first one: its AdamW counts from there.
  int64_t frozen_updates = 0;
};

struct SslLosses {
  double total = 0;       ///< the objective
  double dino_local = 0;  ///< as it enters the objective, before its weight (the reference logs the same)
  double dino_global = 0;
  double ibot = 0;  ///< mean over the masked views' images as it enters the objective, before its weight (the
                    ///< reference logs half of it)
  double koleo = 0;  ///< sum over both views, as it enters the objective, weight included (the reference logs
                     ///< half of it)
};

/// Health of the step, computed from the teacher's targets and the student's features; global over ranks.
struct SslHealth {
  double teacher_entropy = 0;  ///< mean entropy of the DINO targets
  double information = 0;      ///< entropy of the mean target - mean entropy: 0 = collapse
  double kl = 0;               ///< mean CE - teacher entropy
  double prototype_usage = 0;  ///< fraction of prototypes that are the argmax of some row
  double feature_std = 0;  ///< mean over dimensions of the std of L2-normalised class tokens, times sqrt(D)
  double effective_rank = 0;  ///< exp(entropy of the singular-value distribution) of the global class tokens
                              ///< of view 1, at most 128 of them
};

struct SslStepResult {
  SslLosses losses;
  SslHealth health;
  std::array<double, 3> grad_norms{};  ///< before clipping: backbone, dino_head, ibot_head
  bool finite = true;                  ///< false on all ranks when any rank's loss or gradient is not finite
};

class SslModel {
 public:
  /// On the context's device; the communicator is that of its collective. Both must outlive the model, whose
  /// steps reset the context's arena.
  SslModel(const SslConfig& config, Context& context, const Communicator& comm);
  ~SslModel();
  /// Student drawn from `seed`; the teacher starts equal to it.
  void initialize(uint64_t seed);

  /// The teacher becomes equal to the student.
  void adopt_student();

  [[nodiscard]] const SslConfig& config() const;
  [[nodiscard]] const ParameterLayout& layout() const;
  [[nodiscard]] ParameterStore& student();
  [[nodiscard]] ParameterStore& teacher();
  [[nodiscard]] ParameterStore& gradients();
  [[nodiscard]] ParameterStore& adam_m();
  [[nodiscard]] ParameterStore& adam_v();
  /// Softmax centres and their pending updates (empty with Sinkhorn), as checkpoints keep them.
  [[nodiscard]] std::map<std::string, std::vector<double>> centres() const;
  void set_centres(const std::map<std::string, std::vector<double>>& centres);

  /// Forward and backward of both networks: fills gradients() with those of the mean over the global
  /// batch, on every rank. Collective.
  /// `drop_path` may be empty.
  SslStepResult forward_backward(const SslBatch& batch, const SslSchedule& schedule,
                                 const DropPathPlan& drop_path);
  /// Clip, AdamW (step counts from 1), EMA of the teacher. After a step that was not finite it changes
  /// nothing.
  void update(const SslSchedule& schedule, int64_t step);

  /// Seconds per phase of the last step ("teacher", "student_forward", "losses", "backward", "reduce",
  /// "optimizer"), and arena bytes.
  [[nodiscard]] const std::map<std::string, double>& phase_seconds() const;
  [[nodiscard]] int64_t arena_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dino
