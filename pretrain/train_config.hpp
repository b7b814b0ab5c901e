// SPDX-License-Identifier: Apache-2.0
#pragma once
// All settings of a training run, with the published ViT-L/14 recipe's values (or the reference's defaults)
// as defaults.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/options.hpp"
#include "imaging/augment.hpp"
#include "training/masks.hpp"
#include "training/schedules.hpp"
#include "training/ssl.hpp"

namespace dino::pretrain {

struct TrainConfig {
  std::vector<std::string> data;
  // what it begins with (begin_from_weights.hpp)
  std::string weights, which = "teacher";
  int64_t freeze_backbone_steps = 0;
  std::optional<VitConfig> vit;  ///< the backbone of the weights; preset, patch, ... are then for reading
  // model
  std::string preset = "vits14";
  int64_t patch = 0, width = 0, depth = 0, heads = 0;  ///< 0 = the preset's
  int64_t registers = -1;                              ///< -1 = the preset's
  std::string ffn = "preset";
  double layerscale = 1e-5;
  double drop_path = 0.3;
  bool drop_path_uniform = true;
  // heads
  int64_t prototypes = 65536, bottleneck = 256, head_hidden = 2048, head_layers = 3;
  bool separate_ibot_head = true;
  int64_t ibot_prototypes = 0, ibot_bottleneck = 0;  ///< 0 = as the DINO head
  // losses
  double dino_weight = 1, ibot_weight = 1, koleo_weight = 0.1;
  std::string centering = "sinkhorn";
  int64_t sinkhorn_iterations = 3;
  double student_temperature = 0.1, teacher_temperature = 0.07, teacher_temperature_start = 0.04;
  int64_t teacher_temperature_warmup = 37500;
  double mask_probability = 0.5, mask_ratio_min = 0.1, mask_ratio_max = 0.5;
  int64_t mask_min_patches = 4;
  bool mask_exact_count = true;
  // optimisation; counts are in steps
  int64_t steps = 0, batch = 64;
  double lr = 4e-3, min_lr = 1e-6;
  std::string lr_scaling = "sqrt";
  int64_t warmup = 12500, freeze_last_layer = 1250;
  double weight_decay = 0.04, weight_decay_end = 0.4;
  double momentum = 0.992, momentum_end = 1.0;
  double clip = 3.0, layer_decay = 0.9, patch_embed_lr = 0.2, beta1 = 0.9, beta2 = 0.999;
  std::string precision = "auto";
  // crops
  AugmentConfig augment;
  std::string blur = "paper", resampling = "bicubic";
  int64_t max_side = 0;  ///< larger images are reduced once after decoding; 0 = off
  bool pad = false;
  std::string background = "auto", decode_memory = "1G";
  std::vector<double> mean = {0.485, 0.456, 0.406}, std = {0.229, 0.224, 0.225};
  // the run
  std::string resume = "auto";
  int64_t checkpoint_every = 1000, keep = 3, keep_every = 0, log_every = 1;
  double max_seconds = 0;
  int64_t stop_after = 0;
  int64_t max_skips = 5;
  double max_replaced = 0.05;
  int64_t workers = 0, prefetch = 3;
  double cache_gib = 2;
  // online k-NN
  std::string knn_train, knn_test;
  int64_t knn_every = 0, knn_limit = 5000, knn_test_limit = 0, knn_k = 20;
};

void declare_train_options(OptionTable& table, TrainConfig& config);
/// Checks what ranges cannot say (sizes against the patch, steps against warm-ups...). UsageError names the
/// options.
void validate(const TrainConfig& config);
[[nodiscard]] SslConfig make_ssl_config(const TrainConfig& config);
/// What stochastic depth draws over: the crops of the global batch, of which `images` are this rank's.
[[nodiscard]] std::vector<DropPathEntry> drop_path_entries(const TrainConfig& config, Range images);
[[nodiscard]] MaskConfig make_mask_config(const TrainConfig& config);

/// The schedules of a run at one step.
class Schedules {
 public:
  explicit Schedules(const TrainConfig& config);
  /// `updates` of the run so far: the backbone is frozen in the first ones.
  [[nodiscard]] SslSchedule at(int64_t step, int64_t updates) const;

 private:
  int64_t frozen_updates_ = 0;
  CosineSchedule lr_, last_layer_lr_, weight_decay_, momentum_;
  LinearWarmup temperature_;
};

}  // namespace dino::pretrain
