// SPDX-License-Identifier: Apache-2.0
#include "resources.hpp"
#include "training/objectives/dinov2.hpp"

#include <algorithm>

namespace dino::pretrain {
namespace {

constexpr int64_t kFloat = 4;
constexpr int64_t kMebi = int64_t{1} << 20;
/// Program, libraries and MPI, and what oneDNN keeps of packed weights, where nobody has measured them.
constexpr int64_t kProcessBytes = 64 * kMebi, kWorkspaceBytes = 32 * kMebi;

int64_t tokens(const VitConfig& vit, int64_t side) {
  return (side / vit.patch) * (side / vit.patch) + 1 + vit.registers;
}

/// Half of the views are masked, at 10 to 50 % of their patches.
double masked_patches(const TrainConfig& config, const TrainingConfig& ssl, int64_t images) {
  if (config.ibot_weight == 0) return 0;
  const auto grid = static_cast<double>(config.global_size / ssl.vit.patch);
  return config.mask_probability * 2.0 * static_cast<double>(images) *
         (config.mask_ratio_min + config.mask_ratio_max) / 2 * grid * grid;
}

/// What one head keeps of `rows` rows until its backward pass has used it.
double head_bytes(const HeadConfig& head, double rows, double act) {
  double values = static_cast<double>(head.input) * (kFloat + act);
  values += static_cast<double>(head.layers - 1) * static_cast<double>(head.hidden) * 2 * act;
  values += static_cast<double>(head.bottleneck) * (4 * kFloat + act);
  // The backward pass: two gradients of the widest layer, and that of the input.
  values += 2 * static_cast<double>(head.hidden) * act + static_cast<double>(head.input) * kFloat;
  const double prototypes = 2.0 * static_cast<double>(head.prototypes * head.bottleneck) * kFloat;
  return rows * values + prototypes;
}

/// Of one crop's forward pass; the last block's queries, projection and feed-forward for `read` tokens.
double forward_of(const VitConfig& vit, int64_t side, double read) {
  const auto d = static_cast<double>(vit.width);
  const double ffn = vit.ffn == FfnKind::mlp ? 2.0 * d * static_cast<double>(vit.hidden)
                                             : 3.0 * d * static_cast<double>(vit.hidden);
  const auto t = static_cast<double>(tokens(vit, side));
  const auto block = [&](double queries) {
    return 2.0 * (2.0 * t * d * d + queries * (2.0 * d * d + ffn)) + 4.0 * t * queries * d;
  };
  return static_cast<double>(vit.depth - 1) * block(t) + block(read) +
         2.0 * t * d * static_cast<double>(vit.channels * vit.patch * vit.patch);
}

}  // namespace

double forward_flops(const TrainingConfig& ssl, int64_t size) {
  return forward_of(ssl.vit, size, static_cast<double>(tokens(ssl.vit, size)));
}

double flops_per_image(const TrainingConfig& ssl, int64_t global_size, int64_t local_size) {
  const VitConfig& vit = ssl.vit;
  const double masked = 0.15 * 2.0 * static_cast<double>(tokens(vit, global_size) - 1 - vit.registers);
  const double global = forward_of(vit, global_size, 1 + masked / 2);
  const double local = ssl.local_crops > 0 ? forward_of(vit, local_size, 1) : 0;
  const auto head = [&](const HeadConfig& h) {
    double weights = static_cast<double>(h.bottleneck * h.prototypes);
    int64_t input = h.input;
    for (int64_t i = 0; i < h.layers; ++i) {
      const int64_t output = i + 1 == h.layers ? h.bottleneck : h.hidden;
      weights += static_cast<double>(input * output);
      input = output;
    }
    return 2.0 * weights;
  };
  const auto n_local = static_cast<double>(ssl.local_crops);
  return 2.0 * global + 3.0 * (2.0 * global + n_local * local) +
         head(ssl.objective.dino_head) * (2.0 + 3.0 * (2.0 + n_local)) +
         head(ssl.objective.ibot_head) * 4.0 * masked;
}

int64_t activation_bytes(const TrainConfig& config, const TrainingConfig& ssl, int64_t images) {
  const VitConfig& vit = ssl.vit;
  const auto act = static_cast<double>(size_of(dtype_of(ssl.precision)));
  const SplitConfig& split = ssl.split;
  // Activations are those of one micro-batch; tokens and targets of the whole step.
  const auto n = static_cast<double>((images + split.accumulate - 1) / split.accumulate);
  const auto step_images = static_cast<double>(images), d = static_cast<double>(vit.width);
  const auto hidden = static_cast<double>(vit.hidden * (vit.ffn == FfnKind::swiglu ? 2 : 1));
  const auto globals = static_cast<double>(tokens(vit, config.global_size));
  const double locals = ssl.local_crops == 0 ? 0
                                             : static_cast<double>(ssl.local_crops) *
                                                   static_cast<double>(tokens(vit, config.local_size));
  const double rows = n * (2 * globals + locals);
  const double masked = masked_patches(config, ssl, images);
  const double step_tokens = masked + step_images * (2 + static_cast<double>(ssl.local_crops));
  const auto k = static_cast<double>(ssl.objective.dino_head.prototypes);
  const HeadConfig& patch_head =
      ssl.objective.separate_ibot_head ? ssl.objective.ibot_head : ssl.objective.dino_head;

  const double targets = (2 + (ssl.local_crops > 0 ? 1 : 0)) * step_images * k * kFloat +
                         masked * static_cast<double>(patch_head.prototypes) * kFloat;
  // Per token of a block: both branches' inputs and outputs, queries, keys and values, the attended, and the
  // feed-forward's two.
  const double swiglu_half = vit.ffn == FfnKind::swiglu ? hidden / 2 : hidden;
  const double block = d * (2 * kFloat + 6 * act) + (hidden + swiglu_half) * act + 16 +
                       kFloat * static_cast<double>(vit.heads);
  const double kept = rows * (1 - vit.drop_path);
  const double products = (hidden + swiglu_half) * act;
  double blocks = static_cast<double>(vit.depth - 1) * kept * block, again = 0;
  if (split.recompute == Recompute::selective) {
    blocks -= static_cast<double>(vit.depth - 1) * kept * products;
    again = kept * products;
  } else if (split.recompute == Recompute::block) {
    blocks = static_cast<double>(vit.depth - 1) * rows * d * kFloat;
    again = kept * block + rows * d * kFloat;
  }
  const double last_block = kept * d * (kFloat + 2 * act);
  const double read = step_tokens * n / step_images;
  const double embed = rows * static_cast<double>(vit.channels * vit.patch * vit.patch) * act;
  const double student = embed + 4 * rows * d * kFloat + blocks + last_block + read * block;
  const double backward =
      rows * d * kFloat + kept * (5 * d + 2 * hidden) * act + (vit.drop_path > 0 ? kept * d * kFloat : 0);
  const double dino_rows = step_images * (2 + static_cast<double>(ssl.local_crops));
  const double heads =
      std::max(head_bytes(ssl.objective.dino_head, dino_rows, act), head_bytes(patch_head, masked, act));
  const double tokens_of_step = 3 * step_tokens * d * kFloat;  // student, gradient, teacher
  return static_cast<int64_t>(tokens_of_step + student + std::max(backward + again, targets + heads));
}

double repeated_flops_per_image(const TrainingConfig& ssl, int64_t global_size, int64_t local_size) {
  const VitConfig& vit = ssl.vit;
  const auto student = [&](const VitConfig& of) {
    const auto all = [&](int64_t side) {
      return forward_of(of, side, static_cast<double>(tokens(of, side)));
    };
    return 2 * all(global_size) +
           (ssl.local_crops > 0 ? static_cast<double>(ssl.local_crops) * all(local_size) : 0);
  };
  double repeated = ssl.split.accumulate > 1 ? student(vit) : 0;
  VitConfig shorter = vit;  // the last block is not made again
  shorter.depth = std::max<int64_t>(1, vit.depth - 1);
  if (ssl.split.recompute == Recompute::block) repeated += student(shorter);
  if (ssl.split.recompute == Recompute::selective) {
    const double first = static_cast<double>(vit.hidden * (vit.ffn == FfnKind::swiglu ? 2 : 1));
    const double rows = 2 * static_cast<double>(tokens(vit, global_size)) +
                        static_cast<double>(ssl.local_crops) *
                            static_cast<double>(ssl.local_crops > 0 ? tokens(vit, local_size) : 0);
    repeated += static_cast<double>(vit.depth - 1) * 2 * rows * static_cast<double>(vit.width) * first;
  }
  return repeated * (1 - vit.drop_path);
}

StateBytes planned_state(const TrainingConfig& ssl, int ranks) {
  ParameterLayout layout;
  append_vit_layout(layout, ssl.vit);
  declare_heads(layout, ssl.objective);
  const SplitConfig& split = ssl.split;
  const int64_t passes = split.accumulate;
  return state_bytes(layout, split.strategy, split.hybrid_ranks, dtype_of(ssl.reduce_precision), ranks,
                     {passes, passes > 1 ? 2 * passes : passes, passes});
}

int64_t parameter_count(const TrainingConfig& ssl) {
  return vit_parameter_count(ssl.vit) + head_parameter_count(ssl.objective.dino_head) +
         (ssl.objective.separate_ibot_head ? head_parameter_count(ssl.objective.ibot_head) : 0);
}

MemoryPlan plan_memory(const TrainConfig& config, const LoadedImages& loaded, int ranks, int threads) {
  const TrainingConfig ssl = make_training_config(config);
  const int64_t images = even_range(config.batch, 0, ranks).size();
  const StateBytes state = planned_state(ssl, ranks);
  MemoryPlan plan;
  plan.parameters = state.parameters;
  plan.gradients = state.gradients;
  plan.optimizer = state.moments;
  plan.activations = activation_bytes(config, ssl, images);
  plan.workspace = kWorkspaceBytes + state.buffers + snapshot_bytes(ssl, ranks);
  const int64_t crops = 3 * kFloat * images *
                        (2 * config.global_size * config.global_size +
                         config.local_count * config.local_size * config.local_size);
  const auto cache = static_cast<int64_t>(config.cache_gib * 1024 * 1024 * 1024);
  const int64_t workers = config.workers > 0 ? config.workers : threads;
  // A short run does not come to all images; while the steps are open, it is taken to.
  const int64_t met = config.steps.is_auto()
                          ? loaded.count
                          : std::min(loaded.count, (config.steps + config.prefetch) * images);
  plan.loader = (config.prefetch + 1) * crops + std::min(cache, met * loaded.bytes) +
                workers * (loaded.bytes + loaded.decode_bytes);
  plan.process = kProcessBytes;
  return plan;
}

int64_t checkpoint_bytes(const TrainingConfig& ssl) {
  return 4 * parameter_count(ssl) * kFloat;
}

int64_t snapshot_bytes(const TrainingConfig& ssl, int ranks) {
  return (checkpoint_bytes(ssl) + ranks - 1) / ranks;
}

int64_t disk_bytes(const TrainConfig& config) {
  const int64_t written = (config.steps + config.checkpoint_every - 1) / config.checkpoint_every;
  const int64_t spaced = config.keep_every > 0 ? config.steps / config.keep_every : 0;
  const int64_t best = config.knn_every > 0 ? 1 : 0;
  return checkpoint_bytes(make_training_config(config)) *
         (std::min(written, config.keep + 1 + spaced) + best);
}

}  // namespace dino::pretrain
