// SPDX-License-Identifier: Apache-2.0
#include "resources.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/timing.hpp"
#include "data_loader.hpp"
#include "step_draws.hpp"

namespace dino::pretrain {
namespace {

constexpr int64_t kFloat = 4;
constexpr int64_t kMebi = int64_t{1} << 20;
/// Program, libraries and MPI, and what oneDNN keeps of packed weights, where nobody has measured them.
constexpr int64_t kProcessBytes = 64 * kMebi, kWorkspaceBytes = 32 * kMebi;
/// Of a GPU: what a context of CUDA 12 and 13 with this program's and cuBLASLt's kernels takes, what NCCL
/// takes more among ranks, and the largest of what operators need beside crops. Allowances: none is told by a
/// call before it is taken.
constexpr int64_t kContextBytes = 640 * kMebi, kNcclBytes = 512 * kMebi, kScratchBytes = 64 * kMebi;
/// cuBLASLt has 32 MiB for each stream that multiplies: the steps', and the one by which the rate is
/// measured.
constexpr int64_t kProductBytes = 2 * 32 * kMebi;

/// Of the arena of a GPU for these activations.
int64_t arena_room(int64_t activations) {
  return aligned_bytes(activations + activations / 16);
}

/// Of one crop's forward pass; the last block's queries, projection and feed-forward for `read` tokens.
double forward_of(const VitConfig& vit, int64_t side, double read) {
  const auto d = static_cast<double>(vit.width);
  const double ffn = vit.ffn == FfnKind::mlp ? 2.0 * d * static_cast<double>(vit.hidden)
                                             : 3.0 * d * static_cast<double>(vit.hidden);
  const auto t = static_cast<double>(tokens_of(vit, side));
  const auto block = [&](double queries) {
    return 2.0 * (2.0 * t * d * d + queries * (2.0 * d * d + ffn)) + 4.0 * t * queries * d;
  };
  return static_cast<double>(vit.depth - 1) * block(t) + block(read) +
         2.0 * t * d * static_cast<double>(vit.channels * vit.patch * vit.patch);
}

/// The share of the student's rows that its residual branches compute.
double kept_share(const VitConfig& vit) {
  return 1 - (vit.drop_path_uniform ? vit.drop_path : vit.drop_path / 2);
}

}  // namespace

int64_t tokens_of(const VitConfig& vit, int64_t side) {
  return (side / vit.patch) * (side / vit.patch) + 1 + vit.registers;
}

double forward_flops(const TrainingConfig& ssl, int64_t size) {
  return forward_of(ssl.vit, size, static_cast<double>(tokens_of(ssl.vit, size)));
}

double flops_per_image(const TrainingConfig& ssl, int64_t global_size, int64_t local_size) {
  const VitConfig& vit = ssl.vit;
  const double masked = 0.15 * 2.0 * static_cast<double>(tokens_of(vit, global_size) - 1 - vit.registers);
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
  return 2.0 * global + 3.0 * kept_share(vit) * (2.0 * global + n_local * local) +
         head(ssl.objective.dino_head) * (2.0 + 3.0 * (2.0 + n_local)) +
         head(ssl.objective.ibot_head) * 4.0 * masked;
}

double repeated_flops_per_image(const TrainingConfig& ssl, int64_t global_size, int64_t local_size) {
  const VitConfig& vit = ssl.vit;
  const auto student = [&](const VitConfig& of) {
    const auto all = [&](int64_t side) {
      return forward_of(of, side, static_cast<double>(tokens_of(of, side)));
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
    const double rows = 2 * static_cast<double>(tokens_of(vit, global_size)) +
                        static_cast<double>(ssl.local_crops) *
                            static_cast<double>(ssl.local_crops > 0 ? tokens_of(vit, local_size) : 0);
    repeated += static_cast<double>(vit.depth - 1) * 2 * rows * static_cast<double>(vit.width) * first;
  }
  return repeated * kept_share(vit);
}

CountedStep planned_step(const TrainConfig& config, int ranks) {
  const TrainingConfig ssl = make_training_config(config);
  const Range images = even_range(config.batch, 0, ranks);
  const StepDraws draws(config, images, 0, 0);
  StepSizes sizes;
  sizes.ranks = ranks;
  sizes.images = images.size();
  sizes.global_side = config.global_size;
  sizes.local_side = config.local_size;
  sizes.masks = draws.masks();
  sizes.masked_bound = draws.masked_bound();
  sizes.drop_path = draws.drop_path();
  return count_step(ssl, sizes, backend_of(config.device));
}

int64_t crop_bytes(const TrainConfig& config, int64_t images) {
  return 3 * kFloat * images *
         (2 * config.global_size * config.global_size +
          config.local_count * config.local_size * config.local_size);
}

int64_t prepared_bytes(const TrainConfig& config, int64_t images, int64_t picture_bytes) {
  if (kind_of(config.device) == Device::Kind::cpu || picture_bytes == 0) return crop_bytes(config, images);
  return images * std::min(picture_bytes, LoaderConfig{}.picture_bytes);
}

DeviceMemoryPlan plan_device_memory(const TrainConfig& config, const MemoryPlan& plan, int ranks,
                                    int64_t picture_bytes) {
  const int64_t images = even_range(config.batch, 0, ranks).size();
  const int64_t crops = crop_bytes(config, images);
  const int64_t pictures = prepared_bytes(config, images, picture_bytes);
  DeviceMemoryPlan device;
  device.state = plan.parameters + plan.gradients + plan.optimizer;
  device.activations = arena_room(plan.activations);
  device.gathered = plan.gathered;
  device.crops = crops + 2 * (pictures + pictures / 4);
  device.products = kProductBytes + kScratchBytes + crops / kFloat;  // crops are bytes before they are f32
  device.context = kContextBytes + (ranks > 1 ? kNcclBytes : 0);
  return device;
}

void reserve_activations(const Context& c, int64_t activations) {
  if (c.stream.device().is_host()) return;
  const Arena::Scope scope(c.arena);
  (void)c.arena.make(Shape{arena_room(activations)}, DType::u8);
}

int64_t computing_bytes(const TrainConfig& config, const MemoryPlan& plan, int ranks, int64_t picture_bytes) {
  if (kind_of(config.device) == Device::Kind::cpu) return plan.total();
  return plan_device_memory(config, plan, ranks, picture_bytes).total();
}

std::string text_of(const DeviceMemoryPlan& plan) {
  return fmt::format(
      "weights, gradients and moments {}, activations {}, gathered units {}, crops and pictures {}, products "
      "{}, an allowance for the driver's context{} {}",
      human_bytes(plan.state), human_bytes(plan.activations), human_bytes(plan.gathered),
      human_bytes(plan.crops), human_bytes(plan.products), plan.context > kContextBytes ? " and NCCL" : "",
      human_bytes(plan.context));
}

void refuse_too_large(const DeviceMemoryPlan& plan, int64_t gpu_bytes) {
  if (plan.total() <= gpu_bytes) return;
  throw UsageError(fmt::format(
      "too large for the GPU: --device cuda: {} are needed and {} are there: {}; lower --batch, raise "
      "--accumulate, use --recompute block or --strategy full, or choose a smaller --preset",
      human_bytes(plan.total()), human_bytes(gpu_bytes), text_of(plan)));
}

void MemoryPlan::set_state(const StateBytes& state) {
  parameters = state.parameters;
  gradients = state.gradients;
  optimizer = state.moments;
}

int64_t parameter_count(const TrainingConfig& ssl) {
  return vit_parameter_count(ssl.vit) + head_parameter_count(ssl.objective.dino_head) +
         (ssl.objective.separate_ibot_head ? head_parameter_count(ssl.objective.ibot_head) : 0);
}

MemoryPlan plan_memory(const TrainConfig& config, const LoadedImages& loaded, int ranks, int threads) {
  const int64_t images = even_range(config.batch, 0, ranks).size();
  const CountedStep step = planned_step(config, ranks);
  MemoryPlan plan;
  plan.set_state(step.state);
  plan.activations = step.activations;
  plan.workspace = kWorkspaceBytes + step.state.buffers;
  plan.gathered = step.state.buffers;
  plan.snapshot = snapshot_bytes(make_training_config(config), ranks);
  plan.received = step.received;
  const auto cache = static_cast<int64_t>(config.cache_gib * 1024 * 1024 * 1024);
  const int64_t workers = config.workers > 0 ? config.workers : threads;
  // A short run does not come to all images; while the steps are open, it is taken to.
  const int64_t met = config.steps.is_auto()
                          ? loaded.count
                          : std::min(loaded.count, (config.steps + config.prefetch) * images);
  plan.loader = (config.prefetch + 1) * prepared_bytes(config, images, loaded.bytes) +
                std::min(cache, met * loaded.bytes) + workers * (loaded.bytes + loaded.decode_bytes);
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
