// SPDX-License-Identifier: Apache-2.0
#include "train_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "base/error.hpp"
#include "imaging/decode_options.hpp"
#include "precision_options.hpp"
#include "split_options.hpp"
#include "training/loss_scale.hpp"

namespace dino::pretrain {

Resume Resume::from_text(std::string_view text) {
  if (text == "auto") return {};
  if (text == "none") return {From::nothing, {}};
  if (text.empty()) throw std::invalid_argument("takes auto, none, or the folder of a checkpoint");
  return {From::folder, std::string(text)};
}

std::string Resume::text() const {
  return from == From::newest ? "auto" : from == From::nothing ? "none" : folder;
}
namespace {

using C = TrainConfig;

void declare_beginning(Schema<C>& schema) {
  schema.section("beginning");
  schema.add("weights", &C::weights,
             "Weights reference that a new run begins with (a run, a checkpoint, a Hugging Face folder, "
             ".safetensors, .pth): its backbone, and its heads where their sizes are the ones set here.");
  schema.add("which", &C::which, "Which network of --weights, where they hold both.");
  schema.add(
      "freeze-backbone-steps", &C::freeze_backbone_steps,
      "With --weights: optimizer steps in which the backbone stays as it is and the heads learn, or their "
      "share of all.");
}

void declare_model(Schema<C>& schema) {
  declare_beginning(schema);
  schema.section("model");
  schema
      .add("preset", &C::preset,
           "Backbone: a named ViT; auto: as the images, the machine and --minutes allow.")
      .choices(vit_preset_names());
  schema
      .add("patch", &C::patch,
           "Patch side in pixels (0: the preset's); auto: the preset's, smaller where the images are small "
           "and the preset is not given.")
      .range(0, 64);
  schema.add("width", &C::width, "Embedding width (0: the preset's).").range(0, 16384);
  schema.add("depth", &C::depth, "Number of blocks (0: the preset's).").range(0, 200);
  schema.add("heads", &C::heads, "Attention heads (0: the preset's).").range(0, 256);
  schema.add("registers", &C::registers, "Register tokens (-1: the preset's).").range(-1, 64);
  schema.add("ffn", &C::ffn, "Feed-forward layer.");
  schema
      .add("layerscale", &C::layerscale,
           "Initial LayerScale; auto: 1e-5 as published, 0.1 to 1 for short runs.")
      .range(0, 10);
  schema.add("drop-path", &C::drop_path, "Stochastic depth rate of the student; auto: 0 for short runs.")
      .range(0, 0.95);
  schema.add("drop-path-uniform", &C::drop_path_uniform,
             "The same rate in all blocks (false: rising from 0).");
  schema.add("prototypes", &C::prototypes, "Prototypes of the DINO head; auto: from the batch.")
      .range(2, 1 << 24);
  schema.add("bottleneck", &C::bottleneck, "Bottleneck width of the heads; auto: from the model's width.")
      .range(2, 8192);
  schema.add("head-hidden", &C::head_hidden, "Hidden width of the heads; auto: from the model's width.")
      .range(2, 65536);
  schema.add("head-layers", &C::head_layers, "Linear layers of the heads' MLP.").range(1, 16);
  schema.add("separate-ibot-head", &C::separate_ibot_head, "A head of its own for masked patches.");
  schema.add("ibot-prototypes", &C::ibot_prototypes, "Prototypes of the iBOT head (0: as the DINO head).")
      .range(0, 1 << 24);
  schema.add("ibot-bottleneck", &C::ibot_bottleneck, "Bottleneck of the iBOT head (0: as the DINO head).")
      .range(0, 8192);
}

void declare_losses(Schema<C>& schema) {
  schema.section("losses");
  schema.add("dino-weight", &C::dino_weight, "Weight of the DINO loss.").range(0, 100);
  schema.add("ibot-weight", &C::ibot_weight, "Weight of the iBOT loss; 0 turns masks off.").range(0, 100);
  schema.add("koleo-weight", &C::koleo_weight, "Weight of KoLeo, per view.").range(0, 100);
  schema.add("centering", &C::centering, "How teacher targets are kept balanced.");
  schema.add("sinkhorn-iterations", &C::sinkhorn_iterations, "Sinkhorn-Knopp iterations.").range(1, 100);
  schema.add("student-temperature", &C::student_temperature, "Student temperature.").range(1e-3, 10);
  schema
      .add("teacher-temperature", &C::teacher_temperature,
           "Teacher temperature after its warm-up; auto: 0.07, without a ramp for short runs.")
      .range(1e-3, 10);
  schema.add("teacher-temperature-start", &C::teacher_temperature_start, "Teacher temperature at step 0.")
      .range(1e-3, 10);
  schema.add("teacher-temperature-warmup", &C::teacher_temperature_warmup,
             "Steps of the linear temperature warm-up, or their share of all.");
  schema.add("mask-probability", &C::mask_probability, "Fraction of the global views that are masked.")
      .range(0, 1);
  schema.add("mask-ratio-min", &C::mask_ratio_min, "Smallest mask ratio.").range(0, 1);
  schema.add("mask-ratio-max", &C::mask_ratio_max, "Largest mask ratio.").range(0, 1);
  schema.add("mask-min-patches", &C::mask_min_patches, "Smallest block of a mask, in patches.")
      .range(1, 10000);
  schema.add("mask-exact-count", &C::mask_exact_count,
             "Top masks up to their exact count (false: may fall short, as the reference).");
}

void declare_optimisation(Schema<C>& schema) {
  schema.section("optimisation");
  schema
      .add("minutes", &C::minutes,
           "Time that the model, the batch and the steps are chosen for; no limit (see --max-seconds).")
      .range(0.1, 1e7);
  schema
      .add("steps", &C::steps,
           "Optimizer steps of the whole run; the schedules end there. auto: what --minutes allow, at most "
           "200 passes over the images.")
      .range(1, 1e9);
  schema
      .add("batch", &C::batch, "Images per step over all ranks; auto: from the images that the run can see.")
      .range(1, 1e6);
  schema
      .add("batch-per-rank", &C::batch_per_rank,
           "The same for one rank, in place of --batch (0: by that). The run keeps the product.")
      .range(0, 1e6);
  schema
      .add("lr", &C::lr, "Peak learning rate before scaling by the batch; auto: 4e-3, less for large models.")
      .range(0, 10);
  schema.add("lr-scaling", &C::lr_scaling, "sqrt: times sqrt(batch/1024); none: as given.");
  schema.add("min-lr", &C::min_lr, "Learning rate at the end.").range(0, 10);
  schema.add("warmup", &C::warmup, "Steps of the linear learning-rate warm-up, or their share of all.");
  schema.add("freeze-last-layer", &C::freeze_last_layer,
             "Steps in which the heads' last layers stay as they are, or their share of all.");
  schema.add("weight-decay", &C::weight_decay, "Weight decay at the start.").range(0, 10);
  schema
      .add("weight-decay-end", &C::weight_decay_end,
           "Weight decay at the end (cosine); auto: 0.4, for short runs 0.04.")
      .range(0, 10);
  schema
      .add("momentum", &C::momentum,
           "EMA momentum of the teacher at the start; auto: 0.992, for short runs 0.98.")
      .range(0, 1);
  schema.add("momentum-end", &C::momentum_end, "EMA momentum at the end (cosine).").range(0, 1);
  schema.add("clip", &C::clip, "Gradient norm limit per module; 0 = off.").range(0, 1e9);
  schema.add("layer-decay", &C::layer_decay, "Layer-wise learning-rate decay; auto: 0.9, for short runs 1.")
      .range(0.01, 1);
  schema.add("patch-embed-lr", &C::patch_embed_lr, "Learning-rate multiplier of the patch embedding.")
      .range(0, 10);
  schema.add("beta1", &C::beta1, "AdamW beta 1.").range(0, 0.99999);
  schema.add("beta2", &C::beta2, "AdamW beta 2.").range(0, 0.9999999);
  add_device(schema, &C::device);
  add_precision(schema);
  schema
      .add("loss-scale", &C::loss_scale,
           "With fp16: what gradients are multiplied by at first, a power of two; halved after an overflow, "
           "doubled after 2000 steps without one.")
      .range(LossScale::kLeast, LossScale::kMostGiven);
  schema.section("ranks");
  schema.add(&C::split, split_options());
}

void declare_crops(Schema<C>& schema) {
  schema.section("crops");
  schema
      .add("global-size", &C::global_size,
           "Side of the two global crops in pixels, a multiple of the patch; auto: from the images, at most "
           "224.")
      .range(8, 4096);
  schema
      .add("local-size", &C::local_size,
           "Side of the local crops in pixels, a multiple of the patch; auto: 3/7 of --global-size.")
      .range(8, 4096);
  schema.add("local-count", &C::local_count, "Local crops per image; auto: 8, or 4 of less than 42 pixels.")
      .range(0, 64);
  schema
      .add("global-scale-min", &C::augment, &AugmentConfig::global_scale_min,
           "Smallest area fraction of a global crop.")
      .range(0.001, 1);
  schema
      .add("global-scale-max", &C::augment, &AugmentConfig::global_scale_max,
           "Largest area fraction of a global crop.")
      .range(0.001, 1);
  schema
      .add("local-scale-min", &C::augment, &AugmentConfig::local_scale_min,
           "Smallest area fraction of a local crop.")
      .range(0.001, 1);
  schema
      .add("local-scale-max", &C::augment, &AugmentConfig::local_scale_max,
           "Largest area fraction of a local crop.")
      .range(0.001, 1);
  schema
      .add("resampling", &C::augment, &AugmentConfig::resampling,
           "How crops are resized, antialiased in both cases.")
      .choices({"bicubic", "bilinear"});
  schema.add("flip", &C::augment, &AugmentConfig::flip, "Probability of a horizontal flip.").range(0, 1);
  schema.add("jitter", &C::augment, &AugmentConfig::jitter, "Probability of colour jitter.").range(0, 1);
  schema.add("brightness", &C::augment, &AugmentConfig::brightness, "Brightness jitter.").range(0, 1);
  schema.add("contrast", &C::augment, &AugmentConfig::contrast, "Contrast jitter.").range(0, 1);
  schema.add("saturation", &C::augment, &AugmentConfig::saturation, "Saturation jitter.").range(0, 1);
  schema.add("hue", &C::augment, &AugmentConfig::hue, "Hue jitter.").range(0, 0.5);
  schema.add("grayscale", &C::augment, &AugmentConfig::grayscale, "Probability of dropping colour.")
      .range(0, 1);
  schema
      .add("solarize", &C::augment, &AugmentConfig::solarize,
           "Probability of solarization (second global crop).")
      .range(0, 1);
  schema.add("blur", &C::blur,
             "Blur probabilities: the paper's, the released code's inverted ones, or none; auto: paper, but "
             "none for global crops below 128 pixels.");
  schema
      .add("max-side", &C::max_side,
           "Reduce larger images to this longer side once after decoding, so that they fit the cache; 0 = "
           "off; auto: three times --global-size.")
      .range(0, 1e6);
  schema.add("pad", &C::pad, "Pad images to a square with the background colour first (sprites).");
  schema.add(
      "background", &C::background,
      "Colour r,g,b behind transparent pixels and padding; auto: white, or black behind what white would "
      "hide.");
  add_decode_memory(schema, &C::decode_memory);
  schema.add("mean", &C::mean, "Per-channel mean that pixels are normalised with.");
  schema.add("std", &C::std, "Per-channel standard deviation that pixels are normalised with.");
}

void declare_health(Schema<C>& schema) {
  schema
      .add("outlier-z", &C::outlier_z,
           "A step whose loss or gradient norm lies so many standard deviations above the last 128 steps is "
           "an outlier: captured and logged (0: none is).")
      .range(0, 1e6);
  schema.add("skip-outliers", &C::skip_outliers,
             "Leave outliers out as steps that are not finite are, --max-skips included.");
  schema
      .add("captures", &C::captures,
           "Steps of the run that are kept in RUN/captures for replay: the first ones that are not finite, "
           "or outliers. Each holds both networks and a batch of crops.")
      .range(0, 1e6);
  schema
      .add("trace", &C::trace,
           "Steps of this start, the first ones, of which every rank writes a trace to RUN/trace (0: none).")
      .range(0, 10000);
}

void declare_run(Schema<C>& schema) {
  schema.section("run");
  schema
      .add("data", &C::data,
           "Images: data references (folder, tars, list, curated folder, or a named data set).")
      .required();
  schema.add("resume", &C::resume,
             "auto: from the newest valid checkpoint of the run; none: the run must be new; or a checkpoint: "
             "its folder, or the file of export --format full.");
  schema
      .add("checkpoint-every", &C::checkpoint_every,
           "Steps between checkpoints; auto: five in a run, at most 1000.")
      .range(1, 1e9);
  schema.add("keep", &C::keep, "Newest checkpoints kept.").range(2, 1e6);
  schema
      .add("keep-every", &C::keep_every,
           "Also keep every checkpoint whose step is a multiple of this (0: none).")
      .range(0, 1e9);
  schema.add("log-every", &C::log_every, "Steps between lines of metrics.jsonl.").range(1, 1e6);
  schema.add("max-seconds", &C::max_seconds, "Stop resumably (exit 75) after this wall time; 0 = no limit.")
      .range(0, 1e9);
  schema
      .add("stop-after", &C::stop_after,
           "Stop resumably (exit 75) after this many steps of this process; 0 = no limit.")
      .range(0, 1e9);
  schema
      .add("max-skips", &C::max_skips,
           "Non-finite steps in a row before the run rolls back, and a second time gives up (exit 76).")
      .range(1, 1e6);
  schema
      .add("max-replaced", &C::max_replaced,
           "Share of the images that may be undecodable: others are trained on in their place, and beyond "
           "this "
           "the training ends (exit 65).")
      .range(0, 1);
  declare_health(schema);
  schema.add("workers", &C::workers, "Loader threads per rank (0: as many as compute threads).")
      .range(0, 1024);
  schema.add("prefetch", &C::prefetch, "Batches prepared ahead.").range(1, 64);
  schema
      .add("cache-gib", &C::cache_gib,
           "Memory per rank for decoded images, so that small sets decode once; auto: an eighth of the "
           "rank's, at most 2.")
      .range(0, 1e6);
  schema.add("knn-train", &C::knn_train, "Labelled images that vote in the online k-NN.");
  schema.add("knn-test", &C::knn_test,
             "Labelled images that the online k-NN classifies (a validation part).");
  schema.add("knn-every", &C::knn_every, "Steps between online k-NN checks (0: none).").range(0, 1e9);
  schema.add("knn-limit", &C::knn_limit, "Images taken of each k-NN set (evenly spread).").range(10, 1e9);
  schema.add("knn-test-limit", &C::knn_test_limit, "Images taken of --knn-test (0: --knn-limit).")
      .range(0, 1e9);
  schema.add("knn-k", &C::knn_k, "Neighbours that vote.").range(1, 1000);
}

}  // namespace

Schema<TrainConfig> train_options() {
  Schema<C> schema;
  declare_run(schema);
  declare_optimisation(schema);
  declare_model(schema);
  declare_losses(schema);
  declare_crops(schema);
  return schema;
}

void complete(TrainConfig& c) {
  AugmentConfig& a = c.augment;
  a.global_size = c.global_size;
  a.local_size = c.local_size;
  a.local_count = c.local_count;
  a.blur = c.blur;
  for (size_t i = 0; i < 3; ++i) {
    a.normalisation.mean[i] = static_cast<float>(c.mean[i]);
    a.normalisation.std[i] = static_cast<float>(c.std[i]);
  }
}

void validate(const TrainConfig& c) {
  const VitConfig vit = make_training_config(c).vit;
  for (const auto& [name, size] :
       {std::pair{"global-size", c.global_size.value()}, std::pair{"local-size", c.local_size.value()}}) {
    if (size % vit.patch != 0) {
      throw UsageError(fmt::format("bad crop size: --{}: {} is not a multiple of the patch size {}; use {}",
                                   name, size, vit.patch, (size / vit.patch + 1) * vit.patch));
    }
  }
  if (vit.width % vit.heads != 0)
    throw UsageError(
        fmt::format("bad model: --heads: width {} is not divisible by {} heads", vit.width, vit.heads));
  if (c.mean.size() != 3 || c.std.size() != 3)
    throw UsageError("bad normalisation: --mean, --std: take three numbers each");
  if (c.mask_ratio_min > c.mask_ratio_max)
    throw UsageError("contradictory options: --mask-ratio-min is above --mask-ratio-max");
  if (c.augment.global_scale_min > c.augment.global_scale_max)
    throw UsageError("contradictory options: --global-scale-min is above --global-scale-max");
  if (c.augment.local_scale_min > c.augment.local_scale_max)
    throw UsageError("contradictory options: --local-scale-min is above --local-scale-max");
  if (c.warmup.of(c.steps) > c.steps)
    throw UsageError(fmt::format(
        "contradictory options: --warmup: {} is above --steps {}; give a share such as 10%, or fewer steps",
        c.warmup.text(), c.steps.value()));
  if (c.freeze_backbone_steps.of(c.steps) > 0 && c.weights.empty())
    throw UsageError(
        "contradictory options: --freeze-backbone-steps: a backbone that begins at random must learn; give "
        "--weights, or leave it out");
  if (c.freeze_backbone_steps.of(c.steps) > c.steps)
    throw UsageError(fmt::format("contradictory options: --freeze-backbone-steps: {} is above --steps {}",
                                 c.freeze_backbone_steps.text(), c.steps.value()));
  if (c.knn_every > 0 && (c.knn_train.empty() || c.knn_test.empty())) {
    throw UsageError("contradictory options: --knn-every needs --knn-train and --knn-test");
  }
  if (std::exp2(std::round(std::log2(c.loss_scale))) != c.loss_scale)
    throw UsageError(fmt::format("bad loss scale: --loss-scale: {} is no power of two; give {}", c.loss_scale,
                                 std::exp2(std::round(std::log2(c.loss_scale)))));
  if (c.dino_weight == 0 && c.ibot_weight == 0)
    throw UsageError(
        "contradictory options: --dino-weight and --ibot-weight are both 0; nothing would be learnt");
}

namespace {

VitConfig fresh_vit(const TrainConfig& c) {
  VitConfig vit = vit_preset(c.preset);
  if (c.patch > 0) vit.patch = c.patch;
  if (c.depth > 0) vit.depth = c.depth;
  if (c.heads > 0) vit.heads = c.heads;
  if (c.registers >= 0) vit.registers = c.registers;
  if (c.ffn != FfnChoice::preset) vit.ffn = c.ffn == FfnChoice::mlp ? FfnKind::mlp : FfnKind::swiglu;
  if (c.width > 0 || c.ffn != FfnChoice::preset) {
    if (c.width > 0) vit.width = c.width;
    vit.hidden = vit.ffn == FfnKind::mlp ? 4 * vit.width : swiglu_hidden(vit.width);
  }
  vit.position_grid = std::max<int64_t>(1, c.global_size / vit.patch);
  vit.layerscale = c.layerscale;
  return vit;
}

}  // namespace

TrainingConfig make_training_config(const TrainConfig& c) {
  TrainingConfig s;
  s.vit = c.vit ? *c.vit : fresh_vit(c);
  s.vit.drop_path = c.drop_path;
  s.vit.drop_path_uniform = c.drop_path_uniform;
  s.objective.dino_head = {s.vit.width, c.head_hidden, c.head_layers, c.bottleneck, c.prototypes};
  s.objective.ibot_head = s.objective.dino_head;
  if (c.ibot_prototypes > 0) s.objective.ibot_head.prototypes = c.ibot_prototypes;
  if (c.ibot_bottleneck > 0) s.objective.ibot_head.bottleneck = c.ibot_bottleneck;
  s.objective.separate_ibot_head = c.separate_ibot_head;
  s.objective.dino_weight = c.dino_weight;
  s.objective.ibot_weight = c.ibot_weight;
  s.objective.koleo_weight = c.koleo_weight;
  s.objective.centering = c.centering;
  s.objective.sinkhorn_iterations = c.sinkhorn_iterations;
  s.objective.student_temperature = c.student_temperature;
  s.optimizer.clip = c.clip;
  s.optimizer.beta1 = c.beta1;
  s.optimizer.beta2 = c.beta2;
  s.optimizer.layer_decay = c.layer_decay;
  s.optimizer.patch_embed_lr_mult = c.patch_embed_lr;
  s.local_crops = c.local_count;
  s.precision = precision_here(c.precision, kind_of(c.device));
  s.reduce_precision = c.reduce_precision;
  s.loss_scale = c.loss_scale;
  s.split = c.split;
  return s;
}

std::vector<DropPathEntry> drop_path_entries(const TrainConfig& c, Range images) {
  std::vector<DropPathEntry> entries{{2, c.batch, images.begin, images.size()}};
  if (c.local_count > 0) entries.push_back({c.local_count, c.batch, images.begin, images.size()});
  return entries;
}

MaskConfig make_mask_config(const TrainConfig& c) {
  return {c.ibot_weight > 0 ? c.mask_probability : 0.0, c.mask_ratio_min, c.mask_ratio_max,
          c.mask_exact_count, c.mask_min_patches};
}

Schedules::Schedules(const TrainConfig& c) {
  const double scale =
      c.lr_scaling == LrScaling::sqrt ? std::sqrt(static_cast<double>(c.batch.value()) / 1024.0) : 1.0;
  lr_ = {c.lr * scale, c.min_lr, c.steps, c.warmup.of(c.steps), 0, 0};
  // The last layers follow the same curve, with the first steps set to zero (not shifted).
  last_layer_lr_ = lr_;
  last_layer_lr_.freeze = c.freeze_last_layer.of(c.steps);
  weight_decay_ = {c.weight_decay, c.weight_decay_end, c.steps, 0, 0, 0};
  momentum_ = {c.momentum, c.momentum_end, c.steps, 0, 0, 0};
  temperature_ = {c.teacher_temperature_start, c.teacher_temperature,
                  c.teacher_temperature_warmup.of(c.steps)};
  frozen_updates_ = c.freeze_backbone_steps.of(c.steps);
}

StepSchedule Schedules::at(int64_t step, int64_t updates) const {
  StepSchedule s;
  s.lr = lr_.value(step);
  s.last_layer_lr = step < last_layer_lr_.freeze ? 0.0 : s.lr;
  s.weight_decay = weight_decay_.value(step);
  s.momentum = momentum_.value(step);
  s.teacher_temperature = temperature_.value(step);
  s.backbone_frozen = updates < frozen_updates_;
  s.frozen_updates = frozen_updates_;
  return s;
}

}  // namespace dino::pretrain
