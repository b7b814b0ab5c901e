// SPDX-License-Identifier: Apache-2.0
#include "forecast.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <span>
#include "base/json.hpp"

#include "base/log.hpp"
#include "base/timing.hpp"
#include "timed_steps.hpp"

namespace dino::pretrain {
namespace {

/// Images of a rank in the first, small step; a whole step is timed only where it lasts no longer than this.
constexpr int64_t kFewImages = 4;
constexpr double kWholeStepSeconds = 10, kTimedSeconds = 3;
/// A dry run times nothing that would last longer.
constexpr double kQuickSeconds = 20;
constexpr double kDiskBytesPerSecond = 4e8;
constexpr int64_t kLoadedImages = 16;

/// What was measured of a step on this machine.
struct StepCost {
  double seconds = 0;  ///< without loading
  int64_t activations = 0, workspace = 0, process = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

StepCost measure_step(const TrainConfig& config, const Communicator& comm) {
  TrainConfig trial = config;
  trial.steps.choose(1000);  // of the schedules; what a step takes does not depend on it
  const TrainingConfig ssl = make_training_config(trial);
  const int64_t whole = config.batch;
  const int64_t few = std::min(whole, kFewImages * comm.size());
  const auto activations = [&](int64_t batch) {
    return activation_bytes(trial, ssl, even_range(batch, 0, comm.size()).size());
  };
  StepCost cost;
  cost.process = current_rss_bytes();
  trial.batch = few;
  int64_t timed_batch = few;
  Timings timings = time_steps(trial, comm, 1, 1);
  const auto scaled = [&](double seconds) {
    const double fixed = std::min(timings.phases["optimizer"], seconds);
    return fixed + (seconds - fixed) * static_cast<double>(whole) / static_cast<double>(timed_batch);
  };
  cost.seconds = comm.max(scaled(median(timings.seconds)));
  if (whole > few && cost.seconds <= kWholeStepSeconds) {
    trial.batch = timed_batch = whole;
    const auto steps =
        static_cast<int64_t>(std::clamp(kTimedSeconds / std::max(cost.seconds, 1e-3), 1.0, 15.0));
    timings = time_steps(trial, comm, 1, steps);
    cost.seconds = comm.max(median(timings.seconds));
  }
  const double ratio =
      static_cast<double>(activations(whole)) / static_cast<double>(activations(timed_batch));
  cost.activations = static_cast<int64_t>(static_cast<double>(timings.arena_bytes) * ratio);
  const int64_t stores = 5 * 4 * parameter_count(ssl);
  const int64_t crops = 12 * even_range(timed_batch, 0, comm.size()).size() *
                        (2 * config.global_size * config.global_size +
                         config.local_count * config.local_size * config.local_size);
  // What the timed steps leave behind (threads, compiled kernels) is there in the run as well; the rest of
  // their peak comes back.
  const int64_t peak = peak_rss_bytes();
  ::malloc_trim(0);
  cost.process = std::max(cost.process, current_rss_bytes());
  cost.workspace = std::max<int64_t>(0, peak - cost.process - stores - timings.arena_bytes - crops);
  return cost;
}

/// Images that a rank decodes in the run: each once where the cache holds them all.
double decoded_by_rank(const TrainConfig& config, const LoadedImages& loaded, int ranks) {
  const double samples =
      static_cast<double>(config.steps.value()) * static_cast<double>(config.batch.value()) / ranks;
  const double all =
      static_cast<double>(loaded.count) * static_cast<double>(std::max<int64_t>(loaded.bytes, 1));
  const double held = std::min(1.0, config.cache_gib * 1024 * 1024 * 1024 / all);
  const double once = std::min(samples, held * static_cast<double>(loaded.count));
  return once + (samples - once) * (1 - held);
}

std::string list_of(const MemoryPlan& m) {
  return fmt::format(
      "parameters {}, gradients {}, optimizer {}, activations {}, workspace {}, images {}, program {}",
      human_bytes(m.parameters), human_bytes(m.gradients), human_bytes(m.optimizer),
      human_bytes(m.activations), human_bytes(m.workspace), human_bytes(m.loader), human_bytes(m.process));
}

}  // namespace

Forecast make_forecast(TrainConfig& config, const ForecastQuestion& question, const CommandContext& context) {
  const log::Phase phase("timing a step");
  const Communicator& comm = context.world;
  const MachineFacts& machine = question.machine;
  const auto threads = static_cast<int>(-comm.max(-static_cast<int64_t>(resolve_threads(context))));
  const double few = static_cast<double>(std::min<int64_t>(config.batch, kFewImages * comm.size())) * 2;
  double seconds = nominal_step_seconds(config, machine);
  Forecast forecast;

  LoadingCost loading;
  if (comm.root()) {
    TrainConfig complete_config = config;
    complete(complete_config);
    const auto seed = static_cast<uint64_t>(context.common.seed);
    loading =
        measure_loading(question.dataset, make_loader_config(complete_config, seed, threads), kLoadedImages);
  }
  comm.broadcast_span<LoadingCost>({&loading, 1});
  const LoadedImages loaded{question.images.count, loading.bytes, loading.decode_bytes};

  MemoryPlan plan = plan_memory(config, loaded, comm.size(), threads);
  // Nothing that does not fit is tried: the machine would go down with it.
  const bool fits = !comm.any(plan.total() > machine.memory);
  const double probe = seconds * few / static_cast<double>(config.batch.value());
  if (fits && (!question.only_quickly || probe <= kQuickSeconds)) {
    forecast.is_timed = true;
    const StepCost cost = measure_step(config, comm);
    seconds = cost.seconds;
    plan.activations = cost.activations;
    plan.workspace = cost.workspace;
    plan.process = cost.process;
  }
  const double images = static_cast<double>(config.batch.value()) / comm.size();
  forecast.step_seconds = seconds + loading.augment_seconds * images / threads;
  choose_steps(config, question.images, forecast.step_seconds);
  forecast.memory = plan;
  forecast.disk = disk_bytes(config);
  const TrainingConfig ssl = make_training_config(config);
  forecast.parameters = parameter_count(ssl);
  const int64_t checkpoints = (config.steps + config.checkpoint_every - 1) / config.checkpoint_every;
  forecast.seconds = static_cast<double>(config.steps.value()) * forecast.step_seconds +
                     decoded_by_rank(config, loaded, comm.size()) * loading.decode_seconds / threads +
                     static_cast<double>(checkpoints * checkpoint_bytes(ssl)) / kDiskBytesPerSecond;
  return forecast;
}

std::vector<std::string> describe(const Forecast& forecast, const TrainConfig& config,
                                  const ForecastQuestion& question) {
  const TrainingConfig ssl = make_training_config(config);
  const ImageFacts& images = question.images;
  const MachineFacts& machine = question.machine;
  std::vector<std::string> lines;
  lines.push_back(fmt::format(
      "{} images of {} x {} pixels (medians); {} core{} of {} rank{}, {} free for each", images.count,
      images.long_side, images.short_side, machine.cores, machine.cores == 1 ? "" : "s", machine.ranks,
      machine.ranks == 1 ? "" : "s", human_bytes(machine.memory)));
  if (!forecast.chosen.empty())
    lines.push_back(fmt::format("chosen for them (each can be given): {}", fmt::join(forecast.chosen, ", ")));
  lines.push_back(fmt::format(
      "settings: {}, {:.2f} M parameters with heads, {}; crops 2 x {} and {} x {} pixels, patches of {}; {} "
      "steps of {} images ({:.1f} passes), warm-up {}",
      config.vit ? "the weights' model" : config.preset.value(),
      static_cast<double>(forecast.parameters) * 1e-6, name_of(ssl.precision), config.global_size.value(),
      config.local_count.value(), config.local_size.value(), ssl.vit.patch, config.steps.value(),
      config.batch.value(),
      static_cast<double>(config.steps * config.batch) /
          static_cast<double>(std::max<int64_t>(1, images.count)),
      config.warmup.of(config.steps)));
  lines.push_back(fmt::format("expected: {} ({} a step, {}), {} of memory{} ({}), {} of disk",
                              human_seconds(forecast.seconds), human_seconds(forecast.step_seconds),
                              forecast.is_timed ? "timed" : "not timed: a nominal rate",
                              human_bytes(forecast.memory.total()), machine.ranks > 1 ? " for each rank" : "",
                              list_of(forecast.memory), human_bytes(forecast.disk)));
  return lines;
}

nlohmann::ordered_json bytes_object(const MemoryPlan& m) {
  return {{"parameters", m.parameters},   {"gradients", m.gradients}, {"optimizer", m.optimizer},
          {"activations", m.activations}, {"workspace", m.workspace}, {"loader", m.loader},
          {"process", m.process},         {"total", m.total()}};
}

}  // namespace dino::pretrain
