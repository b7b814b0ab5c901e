// SPDX-License-Identifier: Apache-2.0
// What a training would take on ranks that are not there: nothing is made, nothing is written.
#include <fmt/format.h>

#include <algorithm>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "commands.hpp"
#include "forecast.hpp"
#include "ops/gemm_rate.hpp"
#include "resources.hpp"
#include "split_options.hpp"
#include "step_shape.hpp"

namespace dino::pretrain {
namespace {

/// The share of the rate of large products that a whole step reaches.
constexpr double kShareOfProducts = 0.75;
constexpr double kGiga = 1e9, kSecondsOfDay = 86400;

struct PlanConfig {
  StepShape shape;
  int64_t ranks = 1, cores = 0, steps = 125000;
  double gflops = 0, network = 10;
  bool table = false;
};

Schema<PlanConfig> plan_options() {
  using C = PlanConfig;
  Schema<C> schema;
  schema.add(&C::shape, shape_options());
  schema.add("ranks", &C::ranks, "Ranks of the run that is planned.").range(1, 1e6);
  schema.add("steps", &C::steps, "Steps of the run.").range(1, 1e9);
  schema.add("cores", &C::cores, "Cores of a rank (0: those of this one).").range(0, 1e5);
  schema
      .add("gflops", &C::gflops,
           "Rate of large matrix products of one rank, in GFLOP/s (0: measured here, times the cores).")
      .range(0, 1e9);
  schema.add("network", &C::network, "What a rank receives from others, in GB/s.").range(1e-3, 1e6);
  schema.add(
      "table", &C::table,
      "vits14 to vitg14 on 8 to 1,024 ranks, with the batch of each rank and everything else as given.");
  return schema;
}

struct Plan {
  MemoryPlan memory;
  int64_t checkpoint = 0;
  double compute_seconds = 0, network_seconds = 0;
  [[nodiscard]] double step_seconds() const { return std::max(compute_seconds, network_seconds); }
};

Plan plan_of(const StepShape& shape, int ranks, const PlanConfig& config, double rate) {
  check_groups(shape.split, ranks);
  check_pieces(shape.split, shape.batch, ranks);
  TrainConfig train = train_config(shape);
  train.steps = config.steps;
  train.cache_gib = 0;
  validate(train);
  const TrainingConfig training = make_training_config(train);
  Plan plan;
  plan.memory = plan_memory(train, {}, ranks, 1);
  plan.checkpoint = checkpoint_bytes(training);
  const double flops = flops_per_image(training, train.global_size, train.local_size) +
                       repeated_flops_per_image(training, train.global_size, train.local_size);
  const auto images = static_cast<double>((shape.batch + ranks - 1) / ranks);  // of the busiest rank
  plan.compute_seconds = flops * images / (rate * kShareOfProducts);
  plan.network_seconds = static_cast<double>(plan.memory.received) / (config.network * kGiga);
  return plan;
}

std::vector<std::string> assumptions_of(const PlanConfig& config, double rate, bool measured) {
  return {
      fmt::format("a rank's large products run at {:.1f} GFLOP/s ({}), and a whole step at {:.0f} % of it",
                  rate / kGiga, measured ? "measured here" : "given", 100 * kShareOfProducts),
      fmt::format("a rank receives {} GB/s, while it computes", config.network),
      "the loader keeps up; checkpoints and the online k-NN are not counted",
      "memory without decoded images that are kept (--cache-gib 0)"};
}

/// Rows of --table: the batch per rank stays that of the command line.
std::vector<std::pair<std::string, int>> table_rows() {
  std::vector<std::pair<std::string, int>> rows;
  for (const char* preset : {"vits14", "vitb14", "vitl14", "vitg14"})
    for (int ranks = 8; ranks <= 1024; ranks *= 2) rows.emplace_back(preset, ranks);
  return rows;
}

nlohmann::ordered_json json_of(const StepShape& shape, int ranks, const Plan& plan, int64_t steps) {
  return {{"preset", shape.preset},
          {"ranks", ranks},
          {"batch", shape.batch},
          {"strategy", name_of(shape.split.strategy)},
          {"accumulate", shape.split.accumulate},
          {"recompute", name_of(shape.split.recompute)},
          {"bytes", bytes_object(plan.memory)},
          {"bytes_max", plan.memory.total()},
          {"communication_bytes_per_step", plan.memory.received},
          {"checkpoint_bytes", plan.checkpoint},
          {"step_seconds", plan.step_seconds()},
          {"days", plan.step_seconds() * static_cast<double>(steps) / kSecondsOfDay}};
}

void print_header() {
  fmt::print("{:<8} {:>5} {:>6} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>7}\n", "preset", "ranks",
             "batch", "weights", "gradients", "moments", "activations", "total", "network", "step", "days");
}

void print_row(const StepShape& shape, int ranks, const Plan& plan, int64_t steps) {
  const MemoryPlan& m = plan.memory;
  fmt::print("{:<8} {:>5} {:>6} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>7.1f}\n", shape.preset, ranks,
             shape.batch, human_bytes(m.parameters), human_bytes(m.gradients), human_bytes(m.optimizer),
             human_bytes(m.activations), human_bytes(m.total()), human_bytes(plan.memory.received),
             fmt::format("{:.2f} s", plan.step_seconds()),
             plan.step_seconds() * static_cast<double>(steps) / kSecondsOfDay);
}

ExitCode plan(const PlanConfig& config, CommandContext& context) {
  const auto here = static_cast<int64_t>(resolve_threads(context));
  double rate = config.gflops * kGiga;
  const bool measured = rate == 0;
  if (measured)
    rate = ops::gemm_rate(ops::backend_named("cpu"), precision_here(config.shape.precision)) * kGiga *
           static_cast<double>(config.cores > 0 ? config.cores : here) / static_cast<double>(here);
  nlohmann::ordered_json json;
  if (config.table) {
    const int64_t per_rank = (config.shape.batch + config.ranks - 1) / config.ranks;
    json["rows"] = nlohmann::ordered_json::array();
    if (!context.common.json) print_header();
    for (const auto& [preset, ranks] : table_rows()) {
      StepShape shape = config.shape;
      shape.preset = preset;
      shape.batch = per_rank * ranks;
      const Plan row = plan_of(shape, ranks, config, rate);
      json["rows"].push_back(json_of(shape, ranks, row, config.steps));
      if (!context.common.json) print_row(shape, ranks, row, config.steps);
    }
  } else {
    const auto ranks = static_cast<int>(config.ranks);
    const Plan row = plan_of(config.shape, ranks, config, rate);
    json = json_of(config.shape, ranks, row, config.steps);
    if (!context.common.json) {
      print_header();
      print_row(config.shape, ranks, row, config.steps);
    }
  }
  const std::vector<std::string> assumptions = assumptions_of(config, rate, measured);
  json["assumptions"] = assumptions;
  context.result = json_line(json);
  if (!context.common.json)
    for (const std::string& line : assumptions) fmt::print("  {}\n", line);
  return ExitCode::done;
}

}  // namespace

Command plan_command() {
  Command command;
  command.name = "plan";
  command.summary = "what a training would take: memory, network and time of a rank";
  command.usage = "--preset vitl14 --ranks 64 --batch 1024 --strategy full [--table] [--json]";
  command.description =
      "Counts bytes of a rank by kind and what it receives in a step, by the engine's own steps on a device "
      "without bytes, and the time of a step and of the run, from the rate of matrix products measured here "
      "or given. Nothing is made or written; the ranks need not be there.\n"
      "Bytes are the fp32 student, the EMA teacher, gradients and AdamW's moments, both heads among them; "
      "activations (with targets and prototypes); as workspace the units that are gathered and reduced; the "
      "copy from which a checkpoint is written; crops prepared ahead; and the program. vitg14 on 64 ranks of "
      "16 images, full, fp16: parameters 141 MiB, moments 141 MiB, gradients 71 MiB, activations 26 GiB, "
      "workspace 865 MiB, checkpoint copy 282 MiB. Often quoted for the same are 31 MB of parameters, 125 MB "
      "of optimizer, 31 MB of gradients and 40 GB of activations: these leave out the fp32 master weights, "
      "the EMA teacher, the heads and the gathered units.";
  command.uses_mpi = false;
  command.examples = {{"--preset vitl14 --ranks 64 --batch 1024 --strategy full"},
                      {"--table --ranks 8 --batch 128 --strategy full --json"}};
  command.make = with_options(plan_options(), plan);
  return command;
}

}  // namespace dino::pretrain
