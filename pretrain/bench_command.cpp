// SPDX-License-Identifier: Apache-2.0
// Times real training steps on synthetic crops.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "auto_settings.hpp"
#include "base/json.hpp"
#include "base/json_line.hpp"
#include "base/random.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "commands.hpp"
#include "ops/gemm_rate.hpp"
#include "resources.hpp"
#include "split_options.hpp"
#include "timed_steps.hpp"

namespace dino::pretrain {
namespace {

struct BenchConfig {
  std::string preset = "vits14", crops = "2x224,8x98";
  Auto<Precision> precision;
  int64_t batch = 8, steps = 5, warmup = 2, prototypes = 65536, bottleneck = 256, head_hidden = 2048;
  double drop_path = 0;
  SplitConfig split;
};

Schema<BenchConfig> options() {
  using C = BenchConfig;
  Schema<C> schema;
  schema.add("preset", &C::preset, "Backbone.").choices(vit_preset_names());
  schema.add("batch", &C::batch, "Images per step over all ranks.").range(1, 1e6);
  schema.add("precision", &C::precision, "Precision of the products.");
  schema.add(&C::split, split_options());
  schema.add("crops", &C::crops, "Crops: 2x<global side>[,<locals>x<local side>].");
  schema.add("steps", &C::steps, "Timed steps; the median counts.").range(1, 10000);
  schema.add("warmup", &C::warmup, "Steps before the timed ones.").range(0, 10000);
  schema.add("prototypes", &C::prototypes, "Prototypes of each head.").range(2, 1 << 24);
  schema.add("bottleneck", &C::bottleneck, "Bottleneck of the heads.").range(2, 8192);
  schema.add("head-hidden", &C::head_hidden, "Hidden width of the heads.").range(2, 65536);
  schema.add("drop-path", &C::drop_path, "Stochastic depth rate.").range(0, 0.95);
  return schema;
}

struct CropPlan {
  int64_t global_size = 0, local_count = 0, local_size = 0;
};

/// "2x224,8x98" or "2x224".
CropPlan parse_crops(const std::string& text) {
  CropPlan plan;
  int64_t count = 0;
  int matched = 0;
  const int fields = std::sscanf(text.c_str(), "%ldx%ld%n,%ldx%ld%n", &count, &plan.global_size, &matched,
                                 &plan.local_count, &plan.local_size, &matched);
  if ((fields != 2 && fields != 4) || static_cast<size_t>(matched) != text.size() || count != 2 ||
      plan.global_size <= 0 || plan.local_count < 0) {
    throw UsageError("bad crops: --crops: '" + text +
                     "' is not of the form 2x224,8x98 (two global crops, then the locals)");
  }
  return plan;
}

TrainConfig train_config(const BenchConfig& bench, const CropPlan& plan) {
  TrainConfig config;
  config.preset = bench.preset;
  config.precision = bench.precision;
  config.batch = bench.batch;
  config.prototypes = bench.prototypes;
  config.bottleneck = bench.bottleneck;
  config.head_hidden = bench.head_hidden;
  config.drop_path = bench.drop_path;
  config.split = bench.split;
  config.steps = 1000;
  config.warmup = 10;
  config.global_size = plan.global_size;
  config.local_count = plan.local_count;
  config.local_size = plan.local_count > 0 ? plan.local_size : vit_preset(bench.preset).patch;
  choose_published(config);
  return config;
}

ExitCode bench(BenchConfig bench_config, CommandContext& context) {
  settle_split(bench_config.split, bench_config.batch, context.world);
  const CropPlan plan = parse_crops(bench_config.crops);
  const TrainConfig config = train_config(bench_config, plan);
  validate(config);
  if (context.common.dry_run) return ExitCode::done;
  const TrainingConfig ssl = make_training_config(config);
  const double peak = context.world.sum(ops::gemm_rate(ops::backend_named("cpu"), ssl.precision));
  Timings timings = time_steps(config, context.world, bench_config.warmup, bench_config.steps);
  if (!timings.finite) throw InternalError("a bench step gave non-finite values; please report it");
  std::sort(timings.seconds.begin(), timings.seconds.end());
  const double median = timings.seconds[timings.seconds.size() / 2];
  const double flops =
      flops_per_image(ssl, config.global_size, config.local_size) * static_cast<double>(bench_config.batch);
  const int64_t rss = context.world.sum(peak_rss_bytes());
  if (!context.world.root()) return ExitCode::done;
  nlohmann::ordered_json json;
  json["preset"] = bench_config.preset;
  json["batch"] = bench_config.batch;
  json["precision"] = name_of(ssl.precision);
  json["ranks"] = context.world.size();
  json["strategy"] = name_of(bench_config.split.strategy);
  json["accumulate"] = bench_config.split.accumulate;
  json["images_per_second"] = static_cast<double>(bench_config.batch) / median;
  json["step_seconds"] = median;
  json["step_seconds_all"] = timings.seconds;
  json["flops_per_step"] = flops;
  json["achieved_gflops"] = flops / median * 1e-9;
  json["gemm_peak_gflops"] = peak;
  json["peak_rss_bytes"] = rss;
  json["arena_bytes"] = timings.arena_bytes;
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
        bench_config.preset, bench_config.batch, name_of(ssl.precision),
        static_cast<double>(bench_config.batch) / median, median, flops / median * 1e-9, peak,
        human_bytes(rss), human_bytes(timings.allocated_bytes));
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
  command.make = with_options(options(), bench);
  return command;
}

}  // namespace dino::pretrain
