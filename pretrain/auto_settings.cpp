// SPDX-License-Identifier: Apache-2.0
#include "auto_settings.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "resources.hpp"

namespace dino::pretrain {
namespace {

/// A model, the crops that it is meant for, and the images that it takes to be worth training.
struct Rung {
  const char* preset;
  int64_t global_size;
  int64_t least_images;
};

/// From the best to the cheapest. What a run can afford decides; a large model on a few images learns them by
/// heart.
constexpr Rung kRungs[] = {{"vitl14", 224, 1'000'000}, {"vitb14", 224, 100'000}, {"vits14", 224, 2'000},
                           {"vits14", 112, 2'000},     {"vit_tiny", 224, 0},     {"vit_tiny", 112, 0},
                           {"vit_demo", 64, 0},        {"vit_micro", 48, 0}};

/// A rung is affordable when the run sees each image so often, within these bounds on the samples: fewer
/// teach a model of random weights little.
constexpr int64_t kPassesWanted = 100, kFewestSamples = 40'000, kEnoughSamples = 400'000;
/// Of a rank's memory: the rest is for the page cache, other programs and what the estimate misses.
constexpr double kMemoryShare = 0.7;
/// A grid coarser than this says little of where things are.
constexpr int64_t kLeastGrid = 6, kFewestPatches = 4;
/// Schedules are the published ones from here on; shorter runs take those of the short recipes.
constexpr int64_t kLongRun = 50'000;
constexpr int64_t kLargestBatch = 2048, kSmallestBatch = 32;
constexpr int64_t kCountedImages = 16;

int64_t power_of_two_below(int64_t n) {
  return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(n, 1))));
}

int64_t nearest_multiple(double value, int64_t unit, int64_t least_units) {
  const auto units = static_cast<int64_t>(std::lround(value / static_cast<double>(unit)));
  return std::max(units, least_units) * unit;
}

/// True where the patch divides every crop size that is given.
bool divides_given(const TrainConfig& config, int64_t patch) {
  const auto fits = [&](const Auto<int64_t>& size) { return size.is_auto() || size % patch == 0; };
  return fits(config.global_size) && fits(config.local_size);
}

/// The preset's, or the largest smaller one that divides the given sizes and, where that can be, leaves a
/// grid on small images.
int64_t chosen_patch(const TrainConfig& config, int64_t preset_patch, int64_t side) {
  for (const int64_t least_grid : {kLeastGrid, int64_t{0}}) {
    for (int64_t patch = preset_patch; patch >= 2; --patch) {
      const bool usual = patch == preset_patch || patch % 2 == 0 || patch == 7 || patch == 5;
      if (usual && divides_given(config, patch) && side / patch >= least_grid) return patch;
    }
  }
  return preset_patch;
}

/// The model's shape: preset, patch and crops.
void choose_shape(TrainConfig& c, const Rung& rung, const ImageFacts& images) {
  const bool free_model = c.preset.is_auto() && !c.vit;
  c.preset.choose(rung.preset);
  // Images a little smaller than the crop are enlarged; much smaller ones would show no more for it.
  const int64_t of_images = images.short_side > 0 ? images.short_side * 8 / 7 : rung.global_size;
  const int64_t side =
      c.global_size.is_auto() ? std::min(rung.global_size, of_images) : c.global_size.value();
  const int64_t own = c.vit ? c.vit->patch : vit_preset(c.preset).patch;
  if (!c.patch.is_auto() && c.patch == 0) c.patch = own;
  c.patch.choose(free_model ? chosen_patch(c, own, side) : own);
  c.global_size.choose(
      nearest_multiple(static_cast<double>(std::max(side, int64_t{8})), c.patch, kFewestPatches));
  c.local_size.choose(
      std::max(nearest_multiple(static_cast<double>(c.global_size.value()) * 3 / 7, c.patch, 2),
               nearest_multiple(8, c.patch, 1)));
  c.local_count.choose(c.local_size < 42 ? 4 : 8);
  c.blur.choose(c.global_size < 128 ? BlurSetting::off : BlurSetting::paper);
  c.max_side.choose(images.long_side > 3 * c.global_size ? 3 * c.global_size : 0);
}

/// The heads, from the batch and the width. Published: 65,536 prototypes for batches of 2,048; a small batch
/// reaches few of so many.
void choose_heads(TrainConfig& c, int64_t width) {
  const int64_t batch = power_of_two_below(c.batch);
  c.prototypes.choose(std::clamp<int64_t>(batch * (batch >= 1024 ? 32 : 8), 128, 65536));
  c.bottleneck.choose(std::clamp<int64_t>(width, 64, 256));
  c.head_hidden.choose(
      std::clamp<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(4 * width))), 256, 2048));
}

/// The published schedules need tens of thousands of steps: in fewer a LayerScale of 1e-5 keeps the blocks
/// off, and the ramp to a teacher temperature of 0.07 collapses.
void choose_schedules(TrainConfig& c, const VitConfig& vit, int64_t steps) {
  const bool long_run = steps >= kLongRun;
  c.layerscale.choose(long_run ? 1e-5 : vit.depth <= 6 ? 1.0 : 0.1);
  c.drop_path.choose(long_run ? 0.3 : 0);
  c.teacher_temperature.choose(long_run ? 0.07 : c.teacher_temperature_start);
  c.weight_decay_end.choose(long_run ? 0.4 : 0.04);
  c.momentum.choose(long_run ? 0.992 : 0.98);
  const bool giant = vit.width >= 1536;
  c.layer_decay.choose((long_run || c.vit) && !giant ? 0.9 : 1.0);
  double rate = giant ? 2e-4 : long_run || vit.width < 384 ? 4e-3 : 2e-3;
  if (c.vit) rate /= 4;  // what the weights know is soon lost at the rate of random ones
  const double scale =
      c.lr_scaling == LrScaling::sqrt ? 1 : std::sqrt(static_cast<double>(c.batch.value()) / 1024);
  c.lr.choose(std::round(rate * scale * 1e6) / 1e6);
}

int64_t samples_wanted(const ImageFacts& images) {
  return std::clamp(images.count * kPassesWanted, kFewestSamples, kEnoughSamples);
}

double samples_affordable(const TrainConfig& c, const MachineFacts& machine) {
  return c.minutes * 60 / nominal_step_seconds(c, machine) * static_cast<double>(c.batch.value());
}

/// Of one rank. Large batches are judged by fewer images, which are counted sooner: what a step keeps of them
/// grows evenly.
double memory_of(TrainConfig config, const ImageFacts& images, const MachineFacts& machine) {
  choose_steps(config, images, 1e-9);
  validate(config);  // a contradiction among the user's settings is said before anything is counted
  const int64_t few =
      std::min<int64_t>(config.batch, kCountedImages * machine.ranks * config.split.accumulate);
  const double whole = static_cast<double>(config.batch.value()) / static_cast<double>(few);
  config.batch = few;
  const MemoryPlan plan = plan_memory(config, {}, machine.ranks, 1);
  const auto needed = static_cast<double>(computing_bytes(config, plan, machine.ranks, 0));
  const int64_t growing = plan.activations + (kind_of(config.device) == Device::Kind::cpu
                                                  ? plan.loader
                                                  : plan_device_memory(config, plan, machine.ranks, 0).crops);
  return needed + (whole - 1) * static_cast<double>(growing);
}

/// Everything for one rung; false where the memory or the time does not allow it.
bool choose_for(TrainConfig& c, const Rung& rung, const ImageFacts& images, const MachineFacts& machine) {
  choose_shape(c, rung, images);
  const bool free_batch = c.batch.is_auto();
  // What the run can see decides the batch, and the prototypes with it; they matter little for the time.
  TrainConfig trial = c;
  trial.batch.choose(64);
  const auto finish = [&](TrainConfig& config) {
    config.cache_gib.choose(
        std::clamp(std::floor(static_cast<double>(machine.memory) / 8 / (1 << 28)) / 4, 0.25, 2.0));
    const VitConfig vit = [&] {
      TrainConfig shape = config;
      choose_published(shape);
      return make_training_config(shape).vit;
    }();
    choose_heads(config, vit.width);
    const int64_t samples =
        std::min(static_cast<int64_t>(std::min(samples_affordable(config, machine), 1e15)),
                 images.count * kMostPasses);
    choose_schedules(config, vit, config.steps.is_auto() ? samples / config.batch : config.steps.value());
    return samples;
  };
  const int64_t samples = finish(trial);
  const int64_t pieces = machine.ranks * c.split.accumulate;  // each takes an image at least
  int64_t batch = std::clamp(power_of_two_below(samples / 1500), kSmallestBatch, kLargestBatch);
  batch = std::max<int64_t>({std::min(batch, power_of_two_below(images.count)), pieces, 2});
  const auto fits = [&](int64_t size) {
    trial = c;
    trial.batch.choose(size);
    finish(trial);
    return memory_of(trial, images, machine) <= kMemoryShare * static_cast<double>(machine.memory);
  };
  bool fitting = fits(batch);
  const int64_t least = std::max<int64_t>({2, pieces, std::min<int64_t>(batch, 16)});
  while (free_batch && !fitting && batch > least) fitting = fits(batch = std::max(batch / 2, least));
  c = trial;
  return fitting && samples >= std::min(samples_wanted(images), images.count * kMostPasses);
}

}  // namespace

/// Two thirds of what two quiet cores do (vit_demo: 23, 94, 155 and 237): more of them share their memory.
double nominal_core_gflops(CpuLevel level, Precision precision) {
  switch (level) {
    case CpuLevel::baseline:
      return 15;
    case CpuLevel::avx2:
      return 60;
    case CpuLevel::avx512:
      return 100;
    case CpuLevel::avx512bf16:
      return precision == Precision::bf16 ? 150 : 100;
  }
  return 15;
}

double nominal_step_seconds(const TrainConfig& config, const MachineFacts& machine) {
  TrainConfig c = config;
  choose_published(c);  // of what is still open nothing matters for the time
  const double flops = flops_per_image(make_training_config(c), c.global_size, c.local_size);
  return flops * static_cast<double>(c.batch.value()) /
         (machine.core_gflops * 1e9 * static_cast<double>(std::max<int64_t>(machine.cores, 1)));
}

void choose_settings(TrainConfig& config, const ImageFacts& images, const MachineFacts& machine) {
  const bool free_model = config.preset.is_auto() && !config.vit;
  if (!free_model) {
    choose_for(config, {"", 224, 0}, images, machine);
    return;
  }
  TrainConfig last;
  for (const Rung& rung : kRungs) {
    if (images.count < rung.least_images) continue;
    // A given patch or crop size is the user's, whatever model goes with it.
    if (config.patch.is_auto() && !divides_given(config, 2) &&
        !divides_given(config, vit_preset(rung.preset).patch))
      continue;
    last = config;
    if (choose_for(last, rung, images, machine)) break;
  }
  if (last.preset.is_auto()) choose_for(last = config, kRungs[std::size(kRungs) - 1], images, machine);
  config = last;
}

void choose_steps(TrainConfig& c, const ImageFacts& images, double step_seconds) {
  const double passes =
      static_cast<double>(kMostPasses * images.count) / static_cast<double>(c.batch.value());
  double steps = std::max(std::min(c.minutes * 60 / step_seconds, passes), double{kLeastSteps});
  // Two digits: nobody needs 1,387.
  const double unit = std::pow(10.0, std::max(0.0, std::floor(std::log10(steps)) - 1));
  steps = std::min(std::floor(steps / unit) * unit, 1e9);
  c.steps.choose(static_cast<int64_t>(steps));
  c.checkpoint_every.choose(std::clamp<int64_t>(c.steps / 5, 1, 1000));
}

void choose_published(TrainConfig& c) {
  c.preset.choose("vits14");
  const VitConfig vit = c.vit ? *c.vit : vit_preset(c.preset);
  if (!c.patch.is_auto() && c.patch == 0) c.patch = vit.patch;
  c.patch.choose(vit.patch);
  c.global_size.choose(nearest_multiple(224, c.patch, 1));
  c.local_size.choose(nearest_multiple(98, c.patch, 1));
  c.local_count.choose(8);
  c.blur.choose(BlurSetting::paper);
  c.max_side.choose(0);
  c.batch.choose(64);
  c.prototypes.choose(65536);
  c.bottleneck.choose(256);
  c.head_hidden.choose(2048);
  c.cache_gib.choose(2);
  choose_schedules(c, vit, kLongRun);
  c.checkpoint_every.choose(1000);
}

}  // namespace dino::pretrain
