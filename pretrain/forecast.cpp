// SPDX-License-Identifier: Apache-2.0
#include "forecast.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "base/json.hpp"
#include "base/log.hpp"
#include "base/random.hpp"
#include "base/timing.hpp"
#include "timed_steps.hpp"

namespace dino::pretrain {
namespace {

/// Images of a rank in the first, small step; a whole step is timed only where it lasts no longer than this.
constexpr int64_t kFewImages = 4;
constexpr double kWholeStepSeconds = 10, kTimedSeconds = 3, kBelievedFactor = 8;
/// A dry run times nothing that would last longer.
constexpr double kQuickSeconds = 20;
constexpr double kDiskBytesPerSecond = 4e8;
constexpr int64_t kLoadedImages = 16;

/// Images of the trial in which the loader works beside the steps, and the longest that it may take.
constexpr int64_t kTrialImages = 16;
constexpr double kTrialSeconds = 20;

/// What was measured of a step on this machine.
struct StepCost {
  double seconds = 0;         ///< with the loader beside it where is_loaded, else without
  double frozen_seconds = 0;  ///< with a frozen backbone
  /// How much longer the loader's own work takes beside the steps.
  double contention = 1;
  bool is_loaded = false;
  int64_t workspace = 0, process = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Images of noise, as large as those of the data are once they are prepared.
std::vector<std::shared_ptr<const Image>> noise_images(int64_t count, int64_t bytes) {
  std::vector<std::shared_ptr<const Image>> images;
  const auto side = std::max<int64_t>(16, std::lround(std::sqrt(static_cast<double>(bytes) / 3)));
  for (int64_t i = 0; i < count; ++i) {
    Image image{side, side, 3, std::vector<uint8_t>(static_cast<size_t>(3 * side * side))};
    Random random(0, RandomStream::synthetic, static_cast<uint64_t>(i));
    for (uint8_t& value : image.pixels) value = static_cast<uint8_t>(random.below(256));
    images.push_back(std::make_shared<const Image>(std::move(image)));
  }
  return images;
}

/// time_steps, which leaves behind what stays in the run as well (threads, compiled kernels) and no more:
/// what is freed would count in the peak of the next steps.
Timings timed_steps(const TrainConfig& config, const Communicator& comm, int64_t warmup, int64_t steps,
                    DataLoader* loader = nullptr) {
  Timings timings = time_steps(config, comm, warmup, steps, loader);
  ::malloc_trim(0);
  return timings;
}

/// Steps of the run's batch, alone and with a loader beside them.
class StepTrial {
 public:
  StepTrial(const TrainConfig& config, const LoaderConfig& loading, const Communicator& comm)
      : config_(config), loading_(loading), comm_(comm) {
    config_.steps.choose(1000);  // of the schedules; what a step takes does not depend on it
  }
  /// `nominal_seconds` of a step, to know a busy moment by.
  [[nodiscard]] StepCost measure(const LoadingCost& alone, int threads, double nominal_seconds);

 private:
  [[nodiscard]] int64_t own(int64_t batch) const { return even_range(batch, 0, comm_.size()).size(); }
  /// The loader works beside steps of `batch` images, which take `step_seconds` alone; on images of noise
  /// that its cache holds, so that no file has a part in it. False where that would last too long.
  bool measure_beside_loader(StepCost& cost, const LoadingCost& alone, int threads, int64_t batch,
                             double step_seconds);

  TrainConfig config_;
  const LoaderConfig& loading_;
  const Communicator& comm_;
  int64_t loaded_bytes_ = 0;  ///< of crops and images in the trial
};

StepCost StepTrial::measure(const LoadingCost& alone, int threads, double nominal_seconds) {
  const int64_t whole = config_.batch;
  const int64_t few = std::min(whole, kFewImages * comm_.size() * config_.split.accumulate);
  StepCost cost;
  cost.process = current_rss_bytes();
  config_.batch = few;
  Timings timings = timed_steps(config_, comm_, 1, 1);
  const auto scaled = [&](double seconds) {
    const double fixed = std::min(timings.phases["optimizer"], seconds);
    return fixed + (seconds - fixed) * static_cast<double>(whole) / static_cast<double>(config_.batch);
  };
  const double few_seconds = median(timings.seconds);
  cost.seconds = comm_.max(scaled(few_seconds));
  loaded_bytes_ = crop_bytes(config_, own(few));
  // One step of a few images may fall into a busy moment: it must not keep a whole one from being timed.
  const double likely = comm_.max(std::min(cost.seconds, kBelievedFactor * nominal_seconds));
  if (whole > few && likely <= kWholeStepSeconds) {
    config_.batch = whole;
    const auto steps = static_cast<int64_t>(std::clamp(kTimedSeconds / std::max(likely, 1e-3), 1.0, 15.0));
    timings = timed_steps(config_, comm_, 1, steps);
    cost.seconds = comm_.max(median(timings.seconds));
    loaded_bytes_ = crop_bytes(config_, own(whole));
  }
  const double alone_seconds = median(timings.seconds);
  const double backward = std::min(comm_.max(timings.phases["backward"]), alone_seconds) *
                          comm_.max(cost.seconds) / std::max(1e-9, alone_seconds);
  // Where steps are long, those of a few images tell as well how loader and steps slow each other down.
  if (config_.batch == few || !measure_beside_loader(cost, alone, threads, whole, alone_seconds))
    measure_beside_loader(cost, alone, threads, few, few_seconds);
  // A frozen backbone has no backward pass; the loader's work stays.
  cost.frozen_seconds = std::max(0.1 * cost.seconds, cost.seconds - cost.contention * backward);
  const int64_t peak = peak_rss_bytes();
  cost.process = std::max(cost.process, current_rss_bytes());
  const StateBytes& state = timings.state;
  cost.workspace = std::max<int64_t>(0, peak - cost.process - state.parameters - state.gradients -
                                            state.moments - timings.arena_bytes - loaded_bytes_);
  return cost;
}

bool StepTrial::measure_beside_loader(StepCost& cost, const LoadingCost& alone, int threads, int64_t batch,
                                      double step_seconds) {
  // Until what was prepared ahead is used up.
  const int64_t warmup = loading_.prefetch + 2;
  const auto augmenting = [&](int64_t images) {
    return alone.augment_seconds * static_cast<double>(own(images)) / threads;
  };
  const double one = comm_.max(step_seconds) + augmenting(batch);
  if (comm_.any(alone.bytes == 0 || static_cast<double>(warmup + 3) * one > kTrialSeconds)) return false;
  const auto steps = static_cast<int64_t>(std::clamp(kTimedSeconds / std::max(one, 1e-3), 3.0, 30.0));
  const RecordList no_list;
  TrainConfig trial = config_;
  trial.batch = batch;
  LoaderConfig loading = loading_;
  loading.batch = batch;
  DataLoader loader(no_list, loading, even_range(batch, comm_.rank(), comm_.size()), 0,
                    noise_images(kTrialImages, alone.bytes));
  const Timings timings = timed_steps(trial, comm_, warmup, steps, &loader);
  // The mean: beside the loader some steps take much longer, and they count.
  const double mean = comm_.max(std::accumulate(timings.seconds.begin(), timings.seconds.end(), 0.0) /
                                static_cast<double>(timings.seconds.size()));
  cost.seconds = (cost.seconds + augmenting(loading_.batch)) * mean / one;
  cost.contention = std::max(1.0, mean / one);
  cost.is_loaded = true;
  // Else the peak is that of the whole step, which was timed without the loader.
  if (batch == config_.batch)
    loaded_bytes_ = (loading.prefetch + 1) * prepared_bytes(config_, own(batch), alone.bytes) +
                    kTrialImages * alone.bytes;
  return true;
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

/// Of the online k-NN: its images are decoded once, and go through the teacher each time.
double knn_seconds(const TrainConfig& config, double step_seconds, const LoadingCost& loading, int ranks,
                   int threads) {
  if (config.knn_every == 0) return 0;
  const int64_t test = config.knn_test_limit > 0 ? config.knn_test_limit : config.knn_limit;
  const double images = static_cast<double>(config.knn_limit + test) / ranks;
  const double passes = 2 + static_cast<double>(config.steps / config.knn_every);
  const TrainingConfig training = make_training_config(config);
  const double whole = flops_per_image(training, config.global_size, config.local_size);
  const double forward = forward_flops(training, config.global_size);
  const double image_seconds = step_seconds * ranks / static_cast<double>(config.batch.value());
  return images * loading.decode_seconds / threads + passes * images * image_seconds * forward / whole;
}

std::string list_of(const MemoryPlan& m) {
  return fmt::format(
      "parameters {}, gradients {}, optimizer {}, activations {}, workspace {}, checkpoint copy {}, images "
      "{}, program {}",
      human_bytes(m.parameters), human_bytes(m.gradients), human_bytes(m.optimizer),
      human_bytes(m.activations), human_bytes(m.workspace), human_bytes(m.snapshot), human_bytes(m.loader),
      human_bytes(m.process));
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

  TrainConfig complete_config = config;
  complete(complete_config);
  const LoaderConfig loader =
      make_loader_config(complete_config, static_cast<uint64_t>(context.common.seed), threads);
  LoadingCost loading;
  if (comm.root()) loading = measure_loading(question.list, loader, kLoadedImages);
  comm.broadcast_span<LoadingCost>({&loading, 1});
  const LoadedImages loaded{question.images.count, loading.bytes, loading.decode_bytes};

  MemoryPlan plan = plan_memory(config, loaded, comm.size(), threads);
  StepCost cost;
  cost.seconds = cost.frozen_seconds = seconds;
  // Nothing that does not fit is tried: the machine would go down with it.
  const int64_t needed = computing_bytes(config, plan, comm.size(), loaded.bytes);
  const bool fits = !comm.any(needed > machine.memory);
  const double probe = seconds * few / static_cast<double>(config.batch.value());
  if (fits && (!question.only_quickly || probe <= kQuickSeconds)) {
    forecast.is_timed = true;
    cost = StepTrial(config, loader, comm).measure(loading, threads, seconds);
    plan.workspace = cost.workspace;
    plan.process = cost.process;
  }
  const double images = static_cast<double>(config.batch.value()) / comm.size();
  const double augmenting = cost.is_loaded ? 0 : loading.augment_seconds * images / threads;
  forecast.step_seconds = cost.seconds + augmenting;
  choose_steps(config, question.images, forecast.step_seconds);
  forecast.memory = plan;
  if (kind_of(config.device) != Device::Kind::cpu)
    forecast.device_memory = plan_device_memory(config, plan, comm.size(), loaded.bytes);
  forecast.disk = disk_bytes(config);
  const TrainingConfig ssl = make_training_config(config);
  forecast.parameters = parameter_count(ssl);
  // The last one is waited for; the others are written beside the steps up to the next.
  const int64_t checkpoints = (config.steps + config.checkpoint_every - 1) / config.checkpoint_every;
  const double writing = static_cast<double>(checkpoint_bytes(ssl)) / kDiskBytesPerSecond;
  const double interval = static_cast<double>(config.checkpoint_every.value()) * forecast.step_seconds;
  const auto frozen = static_cast<double>(config.freeze_backbone_steps.of(config.steps));
  const double decoding = loading.decode_seconds * cost.contention / threads;
  forecast.seconds = (static_cast<double>(config.steps.value()) - frozen) * forecast.step_seconds +
                     frozen * (cost.frozen_seconds + augmenting) +
                     decoded_by_rank(config, loaded, comm.size()) * decoding + writing +
                     static_cast<double>(checkpoints - 1) * std::max(0.0, writing - interval) +
                     knn_seconds(config, forecast.step_seconds, loading, comm.size(), threads);
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
  if (forecast.device_memory)
    lines.push_back(fmt::format("of the GPU's {}: {} ({})", human_bytes(machine.memory),
                                human_bytes(forecast.device_memory->total()),
                                text_of(*forecast.device_memory)));
  return lines;
}

nlohmann::ordered_json bytes_object(const MemoryPlan& m) {
  return {{"parameters", m.parameters},   {"gradients", m.gradients}, {"optimizer", m.optimizer},
          {"activations", m.activations}, {"workspace", m.workspace}, {"snapshot", m.snapshot},
          {"loader", m.loader},           {"process", m.process},     {"total", m.total()}};
}

nlohmann::ordered_json device_bytes_object(const DeviceMemoryPlan& m) {
  return {{"state", m.state},  {"activations", m.activations}, {"gathered", m.gathered},
          {"crops", m.crops},  {"products", m.products},       {"context", m.context},
          {"total", m.total()}};
}

}  // namespace dino::pretrain
