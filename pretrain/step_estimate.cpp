// SPDX-License-Identifier: Apache-2.0
#include "step_estimate.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "ops/context.hpp"
#include "ops/gemm_rate.hpp"
#include "resources.hpp"
#include "step_draws.hpp"
#include "survey.hpp"
#include "timed_steps.hpp"

namespace dino::pretrain {
namespace {

/// The longest step that is timed as it is; the longest of fewer images or blocks.
constexpr double kWholeSeconds = 2, kPartSeconds = 1;
constexpr double kTimedSeconds = 2;
/// Rows of products from which on they take as long per row.
constexpr int64_t kManyRows = 1024;
/// The share of the rate of large products that steps reach at least; only for how much is timed.
constexpr double kLikelyShare = 0.4;
constexpr double kMemoryShare = 0.9;
/// The arena grows in the first step, and is one piece of untouched pages in the second.
constexpr int64_t kWarmup = 2;

/// Done once a step, however many images it has.
bool is_fixed(const std::string& phase) {
  return phase == "optimizer" || phase == "settle" || phase == "reduce";
}

class StepTrials {
 public:
  StepTrials(const TrainConfig& config, int ranks, const Communicator& here)
      : config_(config),
        ranks_(ranks),
        here_(here),
        model_(make_training_config(config)),
        images_(even_range(config.batch, 0, ranks).size()) {
    const double rate = 1e9 * ops::gemm_rate(backend_of(config.device), model_.precision, 512, 3);
    // All ranks decide alike on what they time.
    flop_seconds_ = here.max(1 / (kLikelyShare * rate));
  }
  [[nodiscard]] StepEstimate estimate();

 private:
  struct Trial {
    int64_t images = 0, depth = 0;
    std::map<std::string, double> phases;
    double seconds = 0;
    double kept = 1;  ///< of the rows of all blocks but the first
  };
  /// `images` of a rank, in micro-batches as large as those of the step as far as may be.
  [[nodiscard]] TrainConfig sized(int64_t images, int64_t depth) const;
  [[nodiscard]] double flops(int64_t images, int64_t depth) const;
  [[nodiscard]] bool fits(int64_t images, int64_t depth) const;
  /// The share of the rows of all blocks but the first that stochastic depth keeps in some steps.
  [[nodiscard]] double kept_share(const TrainConfig& config, int64_t depth, int64_t first_step,
                                  int64_t steps) const;
  [[nodiscard]] Trial time(int64_t images, int64_t depth, double likely_seconds) const;
  [[nodiscard]] int64_t few_images() const;
  /// With as many blocks, or images, as there is time and memory for.
  [[nodiscard]] Trial time_deeper(const Trial& low) const;
  [[nodiscard]] Trial time_more_images(const Trial& low) const;

  const TrainConfig& config_;
  int ranks_;
  const Communicator& here_;
  TrainingConfig model_;
  int64_t images_;  ///< of the step that is asked for
  double flop_seconds_ = 0;
};

TrainConfig StepTrials::sized(int64_t images, int64_t depth) const {
  TrainConfig config = config_;
  config.depth = depth;
  if (images == images_) return config;
  config.batch = images * ranks_;
  int64_t& pieces = config.split.accumulate;
  if (pieces > 1) pieces = std::clamp<int64_t>(images * pieces / images_, 2, std::min(images, pieces));
  return config;
}

double StepTrials::flops(int64_t images, int64_t depth) const {
  const TrainingConfig model = make_training_config(sized(images, depth));
  return static_cast<double>(images) *
         (flops_per_image(model, config_.global_size, config_.local_size) +
          repeated_flops_per_image(model, config_.global_size, config_.local_size));
}

bool StepTrials::fits(int64_t images, int64_t depth) const {
  const MemoryPlan plan = plan_memory(sized(images, depth), {}, ranks_, 1);
  return !here_.any(static_cast<double>(plan.total() - plan.snapshot) >=
                    kMemoryShare * static_cast<double>(free_memory()));
}

double StepTrials::kept_share(const TrainConfig& config, int64_t depth, int64_t first_step,
                              int64_t steps) const {
  const int64_t images = even_range(config.batch, 0, ranks_).size();
  double kept = 0, all = 0;
  for (int64_t step = first_step; step < first_step + steps; ++step) {
    const StepDraws draws(config, {0, images}, 0, static_cast<uint64_t>(step));
    if (!draws.drop_path()) return 1;
    const DropPathPlan plan = draws.drop_path()({0, images});
    for (size_t block = 1; block < static_cast<size_t>(depth); ++block)
      for (const auto& branch : plan.kept[block])
        for (size_t crops = 0; crops < branch.size(); ++crops) {
          const bool is_global = crops == 0;
          const auto tokens = static_cast<double>(
              tokens_of(model_.vit, is_global ? config.global_size.value() : config.local_size.value()));
          kept += tokens * static_cast<double>(branch[crops].rows.size());
          all += tokens * static_cast<double>(images * (is_global ? 2 : config.local_count.value()));
        }
  }
  return all > 0 ? kept / all : 1;
}

StepTrials::Trial StepTrials::time(int64_t images, int64_t depth, double likely_seconds) const {
  const TrainConfig config = sized(images, depth);
  const auto steps = static_cast<int64_t>(std::clamp(kTimedSeconds / likely_seconds, 1.0, 9.0));
  Timings timings = all_are_here(ranks_, here_) ? time_steps(config, here_, kWarmup, steps)
                                                : time_steps_of_first(config, ranks_, here_, kWarmup, steps);
  const double mean = std::accumulate(timings.seconds.begin(), timings.seconds.end(), 0.0) /
                      static_cast<double>(timings.seconds.size());
  std::sort(timings.seconds.begin(), timings.seconds.end());
  Trial trial{images, depth, std::move(timings.phases),
              here_.max(timings.seconds[timings.seconds.size() / 2]), 1};
  double rest = trial.seconds;
  for (auto& [phase, seconds] : trial.phases) {
    seconds *= trial.seconds / mean;
    rest -= seconds;
  }
  trial.phases["rest"] = rest;
  trial.kept = kept_share(config, depth, kWarmup, steps);
  return trial;
}

int64_t StepTrials::few_images() const {
  const int64_t tokens =
      2 * tokens_of(model_.vit, config_.global_size) +
      (model_.local_crops > 0 ? model_.local_crops * tokens_of(model_.vit, config_.local_size) : 0);
  const int64_t micro = std::min((kManyRows + tokens - 1) / tokens, images_ / config_.split.accumulate);
  return std::max<int64_t>(1, micro) * std::min<int64_t>(config_.split.accumulate, 2);
}

StepTrials::Trial StepTrials::time_deeper(const Trial& low) const {
  const double block = (flops(low.images, 2) - flops(low.images, 1)) * flop_seconds_;
  int64_t depth = std::clamp(1 + static_cast<int64_t>((kPartSeconds - low.seconds) / block), int64_t{2},
                             std::max<int64_t>(2, model_.vit.depth));
  while (depth > 2 && !fits(low.images, depth)) --depth;
  return time(low.images, depth, low.seconds + static_cast<double>(depth - 1) * block);
}

StepTrials::Trial StepTrials::time_more_images(const Trial& low) const {
  const int64_t times = std::max<int64_t>(2, static_cast<int64_t>(kPartSeconds / low.seconds));
  int64_t images = std::min(images_, times * low.images);
  while (images > 2 * low.images && !fits(images, 1)) images -= low.images;
  return time(images, 1, low.seconds * static_cast<double>(images) / static_cast<double>(low.images));
}

StepEstimate StepTrials::estimate() {
  const int64_t depth = model_.vit.depth;
  const double whole = flops(images_, depth) * flop_seconds_;
  if (whole <= kWholeSeconds && fits(images_, depth)) {
    Trial trial = time(images_, depth, whole);
    return {std::move(trial.phases), images_, depth};
  }
  const int64_t few = few_images();
  if (!fits(few, std::min<int64_t>(2, depth)))
    throw UsageError(
        "does not fit: two blocks of the model with a few images are more than this machine's memory, so "
        "that no step can be timed here; give --gflops, or ask on a larger one");
  const Trial low = time(few, 1, flops(few, 1) * flop_seconds_);
  const Trial high = depth > 1 ? time_deeper(low) : low;
  const Trial more = images_ > few ? time_more_images(low) : low;
  const double times = static_cast<double>(images_) / static_cast<double>(few);
  const double kept = kept_share(config_, depth, 0, 1) / high.kept;
  StepEstimate estimate{{}, more.images, high.depth};
  for (const auto& [phase, seconds] : low.phases) {
    const bool fixed = is_fixed(phase), student = phase == "student_forward" || phase == "backward";
    double& sum = estimate.phases[phase] = seconds;
    if (more.images > few && !fixed)
      sum += (more.phases.at(phase) - seconds) * static_cast<double>(images_ - few) /
             static_cast<double>(more.images - few);
    if (high.depth > 1)
      sum += (high.phases.at(phase) - seconds) * static_cast<double>(depth - 1) /
             static_cast<double>(high.depth - 1) * (fixed ? 1 : times) * (student ? kept : 1);
    sum = std::max(0.0, sum);
  }
  return estimate;
}

}  // namespace

double StepEstimate::seconds() const {
  double sum = 0;
  for (const auto& [phase, seconds] : phases) sum += seconds;
  return sum;
}

StepEstimate StepEstimate::with_moments(double share) const {
  StepEstimate other = *this;
  for (const char* phase : {"optimizer", "settle"}) other.phases[phase] *= share;
  return other;
}

bool all_are_here(int ranks, const Communicator& here) {
  return here.size() == ranks;
}

StepEstimate estimate_step(const TrainConfig& config, int ranks, const Communicator& here) {
  const log::Phase phase("timing steps");
  return StepTrials(config, ranks, here).estimate();
}

double gather_rate(const DeviceChoice& device, const Communicator& comm) {
  constexpr int64_t kPart = 1 << 20;
  constexpr int kUnits = 8, kTimes = 3;
  ops::Backend& backend = backend_of(device);
  Workplace place(backend, comm, Precision::f32);
  Context& c = place.context();
  // One after another, as the units of a model are: none is in a cache when its turn comes again.
  std::vector<Tensor> units;
  for (int i = 0; i < kUnits; ++i)
    units.emplace_back(Shape{kPart * comm.size()}, DType::f32, backend.memory());
  double best = 0;
  for (int i = 0; i <= kTimes; ++i) {
    comm.barrier();
    const Stopwatch watch;
    for (Tensor& unit : units) c.collective.all_gather(c.stream, unit).synchronize();
    const auto received = static_cast<double>(kUnits * kPart * (comm.size() - 1)) * sizeof(float);
    if (i > 0) best = std::max(best, received / watch.seconds());  // at first the pages are new
  }
  return -comm.max(-best);
}

}  // namespace dino::pretrain
