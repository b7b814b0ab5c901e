// SPDX-License-Identifier: Apache-2.0
// Times real training steps on synthetic crops.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/random.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "commands.hpp"
#include "forecast.hpp"
#include "ops/gemm_rate.hpp"
#include "resources.hpp"
#include "split_options.hpp"
#include "step_shape.hpp"
#include "timed_steps.hpp"

namespace dino::pretrain {
namespace {

struct BenchConfig {
  StepShape shape;
  int64_t steps = 5, warmup = 2;
};

Schema<BenchConfig> bench_options() {
  using C = BenchConfig;
  Schema<C> schema;
  schema.add(&C::shape, shape_options());
  schema.add("steps", &C::steps, "Timed steps; the median counts.").range(1, 10000);
  schema.add("warmup", &C::warmup, "Steps before the timed ones.").range(0, 10000);
  return schema;
}

/// What the timed steps had, as it is counted where it is made; and the rest of the resident peak as the
/// program's.
MemoryPlan counted_bytes(const TrainConfig& config, const Timings& timings, const Communicator& world) {
  MemoryPlan bytes;
  bytes.set_state(timings.state);
  bytes.activations = timings.arena_bytes;
  bytes.workspace = timings.state.buffers;
  bytes.loader = crop_bytes(config, even_range(config.batch, world.rank(), world.size()).size());
  bytes.process = std::max<int64_t>(0, peak_rss_bytes() - bytes.total());
  return bytes;
}

ExitCode bench(BenchConfig bench_config, CommandContext& context) {
  StepShape& shape = bench_config.shape;
  settle_groups(shape.split, context.world);
  settle_device(shape.device, context.world);
  check_pieces(shape.split, shape.batch, context.world.size());
  const TrainConfig config = train_config(shape);
  validate(config);
  if (context.common.dry_run) return ExitCode::done;
  const TrainingConfig ssl = make_training_config(config);
  const int64_t idle = current_rss_bytes();
  const double peak = context.world.sum(ops::gemm_rate(backend_of(config.device), ssl.precision));
  Timings timings = time_steps(config, context.world, bench_config.warmup, bench_config.steps);
  if (!timings.finite) throw InternalError("a bench step gave non-finite values; please report it");
  std::sort(timings.seconds.begin(), timings.seconds.end());
  const double median = timings.seconds[timings.seconds.size() / 2];
  const double flops =
      flops_per_image(ssl, config.global_size, config.local_size) * static_cast<double>(shape.batch);
  const MemoryPlan bytes = counted_bytes(config, timings, context.world);
  const int64_t most = context.world.max(bytes.total());
  const int64_t rss = context.world.sum(peak_rss_bytes()), idle_all = context.world.sum(idle);
  if (!context.world.root()) return ExitCode::done;
  nlohmann::ordered_json json;
  json["preset"] = shape.preset;
  json["batch"] = shape.batch;
  json["device"] = name_of(kind_of(shape.device));
  json["precision"] = name_of(ssl.precision);
  json["reduce_precision"] = name_of(ssl.reduce_precision);
  json["ranks"] = context.world.size();
  json["strategy"] = name_of(shape.split.strategy);
  json["accumulate"] = shape.split.accumulate;
  json["images_per_second"] = static_cast<double>(shape.batch) / median;
  json["step_seconds"] = median;
  json["step_seconds_all"] = timings.seconds;
  json["flops_per_step"] = flops;
  json["achieved_gflops"] = flops / median * 1e-9;
  json["gemm_peak_gflops"] = peak;
  json["bytes"] = bytes_object(bytes);
  json["bytes_max"] = most;
  json["peak_rss_bytes"] = rss;
  json["idle_rss_bytes"] = idle_all;
  json["arena_bytes"] = timings.arena_bytes;
  if (timings.device_used_bytes > 0) json["device_used_bytes"] = timings.device_used_bytes;
  json["allocated_bytes"] = timings.allocated_bytes;
  json["page_faults"] = timings.page_faults;
  json["loss"] = timings.loss;
  json["phases"] = timings.phases;
  context.result = json_line(json);
  if (!context.common.json) {
    fmt::print(
        "{} batch {} {}: {:.3f} images/s, {:.3f} s a step, {:.1f} GFLOP/s of {:.1f} (GEMM), peak memory {}, "
        "{} allocated "
        "by tensors in the timed steps\n",
        shape.preset, shape.batch, name_of(ssl.precision), static_cast<double>(shape.batch) / median, median,
        flops / median * 1e-9, peak, human_bytes(rss), human_bytes(timings.allocated_bytes));
    for (const auto& [name, seconds] : timings.phases) fmt::print("  {:<16} {:.3f} s\n", name, seconds);
  }
  return ExitCode::done;
}

}  // namespace

Command bench_command() {
  Command command;
  command.name = "bench";
  command.summary = "time real training steps on synthetic crops";
  command.usage = "--preset vits14 --batch 8 --precision fp32 [--crops 2x224,8x98] [--steps 5] [--json]";
  command.description =
      "Runs complete training steps (teacher, student, losses, backward, optimizer, EMA) on random crops and "
      "reports the median.";
  command.examples = {{"--preset vits14 --batch 8 --precision fp32"}};
  command.make = with_options(bench_options(), bench);
  return command;
}

}  // namespace dino::pretrain
