// SPDX-License-Identifier: Apache-2.0
#pragma once
// All settings of a training run. Defaults are the published ViT-L/14 recipe's values (or the reference's);
// what depends on the images, the machine or the length of the run is chosen (auto_settings.hpp) unless
// given.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/auto_setting.hpp"
#include "base/options.hpp"
#include "imaging/augment.hpp"
#include "imaging/decode_options.hpp"
#include "model/weights.hpp"
#include "ops/device_option.hpp"
#include "training/config.hpp"
#include "training/masks.hpp"
#include "training/schedules.hpp"
#include "training/step.hpp"

namespace dino::pretrain {

enum class FfnChoice : uint8_t { preset, mlp, swiglu };
constexpr auto names_of(FfnChoice) {
  return std::to_array<Named<FfnChoice>>(
      {{"preset", FfnChoice::preset}, {"mlp", FfnChoice::mlp}, {"swiglu", FfnChoice::swiglu}});
}
/// sqrt: the peak is for 1,024 images and grows with the root of the batch.
enum class LrScaling : uint8_t { sqrt, none };
constexpr auto names_of(LrScaling) {
  return std::to_array<Named<LrScaling>>({{"sqrt", LrScaling::sqrt}, {"none", LrScaling::none}});
}

/// Where a run goes on: from its newest valid checkpoint, nowhere (it must be new), or from a folder.
struct Resume {
  enum class From : uint8_t { newest, nothing, folder } from = From::newest;
  std::string folder;
  static Resume from_text(std::string_view text);  ///< auto, none, or a path
  [[nodiscard]] std::string text() const;
  static const char* type_name() { return "PATH"; }
};

struct TrainConfig {
  std::vector<std::string> data;
  // what it begins with (begin_from_weights.hpp)
  std::string weights;
  Network which = Network::teacher;
  StepCount freeze_backbone_steps;
  std::optional<VitConfig> vit;  ///< the backbone of the weights; preset, patch, ... are then for reading
  // model
  Auto<std::string> preset;
  Auto<int64_t> patch;                      ///< 0 = the preset's
  int64_t width = 0, depth = 0, heads = 0;  ///< 0 = the preset's
  int64_t registers = -1;                   ///< -1 = the preset's
  FfnChoice ffn = FfnChoice::preset;
  Auto<double> layerscale, drop_path;
  bool drop_path_uniform = true;
  // heads
  Auto<int64_t> prototypes, bottleneck, head_hidden;
  int64_t head_layers = 3;
  bool separate_ibot_head = true;
  int64_t ibot_prototypes = 0, ibot_bottleneck = 0;  ///< 0 = as the DINO head
  // losses
  double dino_weight = 1, ibot_weight = 1, koleo_weight = 0.1;
  Centering centering = Centering::sinkhorn;
  int64_t sinkhorn_iterations = 3;
  double student_temperature = 0.1, teacher_temperature_start = 0.04;
  Auto<double> teacher_temperature;
  StepCount teacher_temperature_warmup = StepCount::percent(30);
  double mask_probability = 0.5, mask_ratio_min = 0.1, mask_ratio_max = 0.5;
  int64_t mask_min_patches = 4;
  bool mask_exact_count = true;
  // optimisation; the reference's warm-up, freeze and temperature ramp are 12,500, 1,250 and 37,500 of
  // 125,000 steps
  double minutes = 30;  ///< what the choices aim at
  Auto<int64_t> steps, batch;
  int64_t batch_per_rank = 0;  ///< until `batch` is settled; 0 = not given
  Auto<double> lr;
  double min_lr = 1e-6;
  LrScaling lr_scaling = LrScaling::sqrt;
  StepCount warmup = StepCount::percent(10), freeze_last_layer = StepCount::percent(1);
  double weight_decay = 0.04;
  Auto<double> weight_decay_end, momentum, layer_decay;
  double momentum_end = 1.0;
  double clip = 3.0, patch_embed_lr = 0.2, beta1 = 0.9, beta2 = 0.999;
  DeviceChoice device;  ///< settled before anything is computed
  Auto<Precision> precision;
  Precision reduce_precision = Precision::f32;
  double loss_scale = 65536;
  SplitConfig split;
  // crops
  Auto<int64_t> global_size, local_size, local_count;
  Auto<BlurSetting> blur;
  Auto<int64_t> max_side;  ///< larger images are reduced once after decoding; 0 = off
  AugmentConfig augment;   ///< the probabilities and scales; complete() copies the rest into it
  bool pad = false;
  Background background;
  DecodeMemory decode_memory;
  std::vector<double> mean = {0.485, 0.456, 0.406}, std = {0.229, 0.224, 0.225};
  // the run
  Resume resume;
  Auto<int64_t> checkpoint_every;
  int64_t keep = 3, keep_every = 0, log_every = 1;
  double max_seconds = 0;
  int64_t stop_after = 0;
  int64_t max_skips = 5;
  double max_replaced = 0.05;
  // health of the steps
  double outlier_z = 8;
  bool skip_outliers = false;
  int64_t captures = 3, trace = 0;
  int64_t workers = 0, prefetch = 3;
  Auto<double> cache_gib;
  // online k-NN
  std::string knn_train, knn_test;
  int64_t knn_every = 0, knn_limit = 5000, knn_test_limit = 0, knn_k = 20;
};

[[nodiscard]] Schema<TrainConfig> train_options();
/// Calls `visit(name, setting)` for every setting that is chosen unless given.
template <class Visit>
void for_each_auto(TrainConfig& c, Visit visit) {
  visit("preset", c.preset), visit("patch", c.patch), visit("layerscale", c.layerscale);
  visit("drop-path", c.drop_path), visit("prototypes", c.prototypes), visit("bottleneck", c.bottleneck);
  visit("head-hidden", c.head_hidden), visit("teacher-temperature", c.teacher_temperature);
  visit("steps", c.steps), visit("batch", c.batch), visit("lr", c.lr);
  visit("weight-decay-end", c.weight_decay_end), visit("momentum", c.momentum);
  visit("layer-decay", c.layer_decay), visit("global-size", c.global_size);
  visit("local-size", c.local_size), visit("local-count", c.local_count), visit("blur", c.blur);
  visit("max-side", c.max_side), visit("checkpoint-every", c.checkpoint_every);
  visit("cache-gib", c.cache_gib);
}
/// Fills `augment` from the settings that users give; once everything is chosen.
void complete(TrainConfig& config);
/// Checks what ranges cannot say (sizes against the patch, steps against warm-ups...). UsageError names the
/// options.
void validate(const TrainConfig& config);
[[nodiscard]] TrainingConfig make_training_config(const TrainConfig& config);
/// What stochastic depth draws over: the crops of the global batch, of which `images` are this rank's.
[[nodiscard]] std::vector<DropPathEntry> drop_path_entries(const TrainConfig& config, Range images);
[[nodiscard]] MaskConfig make_mask_config(const TrainConfig& config);

/// The schedules of a run at one step.
class Schedules {
 public:
  explicit Schedules(const TrainConfig& config);
  /// `updates` of the run so far: the backbone is frozen in the first ones.
  [[nodiscard]] StepSchedule at(int64_t step, int64_t updates) const;

 private:
  int64_t frozen_updates_ = 0;
  CosineSchedule lr_, last_layer_lr_, weight_decay_, momentum_;
  LinearWarmup temperature_;
};

}  // namespace dino::pretrain
