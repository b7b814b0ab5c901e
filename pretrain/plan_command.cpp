// SPDX-License-Identifier: Apache-2.0
// What a training would take on ranks that are not there: nothing is made, nothing is written.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "commands.hpp"
#include "forecast.hpp"
#include "ops/accelerator.hpp"
#include "quoted_runs.hpp"
#include "resources.hpp"
#include "split_options.hpp"
#include "step_estimate.hpp"
#include "step_shape.hpp"

namespace dino::pretrain {
namespace {

constexpr double kGiga = 1e9, kSecondsOfDay = 86400;
/// Of a node's network, where none is given or at hand.
constexpr double kNetworkGb = 10;

struct PlanConfig {
  StepShape shape;
  int64_t ranks = 1, cores = 0, steps = 125000;
  double gflops = 0, network = 0;
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
           "Rate at which a rank computes whole steps, in GFLOP/s (0: steps are timed here, with the model's "
           "own widths).")
      .range(0, 1e9);
  schema
      .add("network", &C::network,
           "What a rank receives from others, in GB/s (0: measured between the ranks that plan itself is "
           "started on; 10 where it runs alone).")
      .range(0, 1e6);
  schema.add(
      "table", &C::table,
      "vits14 to vitg14 on 8 to 1,024 ranks, with the batch of each rank and everything else as given.");
  return schema;
}

struct Plan {
  MemoryPlan memory;
  std::optional<DeviceMemoryPlan> device;
  int64_t checkpoint = 0;
  double compute_seconds = 0, network_seconds = 0;
  double images = 0;  ///< of a rank
  [[nodiscard]] double step_seconds() const { return std::max(compute_seconds, network_seconds); }
};

/// What a rank computes, in seconds: at the rate that is given, or by steps that are timed here.
class StepClock {
 public:
  /// Collective over `here`, whose ranks time steps at the same time, as those of a training would.
  StepClock(const PlanConfig& config, int threads, const Communicator& here)
      : config_(config), threads_(threads), here_(here) {}
  [[nodiscard]] double seconds(const TrainConfig& train, int ranks, const MemoryPlan& memory);
  /// Where the seconds come from.
  [[nodiscard]] std::vector<std::string> assumptions() const;

 private:
  struct Timed {
    StepEstimate step;
    int64_t moments = 0;  ///< bytes of the rank that it was timed for
    int64_t images = 0, depth = 0;
  };
  const PlanConfig& config_;
  int threads_;
  const Communicator& here_;
  std::map<std::string, Timed> timed_;  ///< by preset: all else is the same in every row of a table
};

double StepClock::seconds(const TrainConfig& train, int ranks, const MemoryPlan& memory) {
  const TrainingConfig model = make_training_config(train);
  const int64_t images = even_range(train.batch, 0, ranks).size();
  if (config_.gflops > 0)
    return static_cast<double>(images) *
           (flops_per_image(model, train.global_size, train.local_size) +
            repeated_flops_per_image(model, train.global_size, train.local_size)) /
           (config_.gflops * kGiga);
  Timed& timed = timed_[train.preset];
  if (timed.moments == 0)
    timed = {estimate_step(train, ranks, here_), std::max<int64_t>(1, memory.optimizer), images,
             model.vit.depth};
  const double seconds =
      timed.step.with_moments(static_cast<double>(memory.optimizer) / static_cast<double>(timed.moments))
          .seconds();
  return here_.max(config_.cores > 0 ? seconds * threads_ / static_cast<double>(config_.cores) : seconds);
}

std::vector<std::string> StepClock::assumptions() const {
  if (config_.gflops > 0)
    return {fmt::format("a rank computes its steps at {} GFLOP/s (given)", config_.gflops)};
  const int64_t cores = config_.cores > 0 ? config_.cores : threads_;
  std::vector<std::string> lines{fmt::format(
      "a rank is {} core{} as {} here, at the speed that {} now: steps were timed with {} thread{}", cores,
      cores == 1 ? "" : "s", cores == 1 ? "one is" : "they are", cores == 1 ? "it has" : "they have",
      threads_, threads_ == 1 ? "" : "s")};
  if (here_.size() > 1)
    lines.emplace_back(all_are_here(static_cast<int>(config_.ranks), here_) && !config_.table
                           ? "the ranks timed their steps together, with all that they send each other"
                           : "the ranks here timed their steps together, and sent nothing");
  for (const auto& [preset, timed] : timed_) {
    const bool is_whole = timed.step.images == timed.images && timed.step.depth == timed.depth;
    lines.push_back(is_whole ? fmt::format("{}: the step of a rank was timed as it is", preset)
                             : fmt::format("{}: put together from steps with up to {} of {} images and up to "
                                           "{} of {} blocks",
                                           preset, timed.step.images, timed.images, timed.step.depth,
                                           timed.depth));
  }
  return lines;
}

Plan plan_of(const StepShape& shape, int ranks, const PlanConfig& config, StepClock& clock) {
  check_groups(shape.split, ranks);
  check_pieces(shape.split, shape.batch, ranks);
  TrainConfig train = train_config(shape);
  train.steps = config.steps;
  train.cache_gib = 0;
  validate(train);
  Plan plan;
  plan.memory = plan_memory(train, {}, ranks, 1);
  if (kind_of(train.device) != Device::Kind::cpu)
    plan.device = plan_device_memory(train, plan.memory, ranks, 0);
  plan.checkpoint = checkpoint_bytes(make_training_config(train));
  plan.images = static_cast<double>(shape.batch) / ranks;
  plan.compute_seconds = clock.seconds(train, ranks, plan.memory);
  plan.network_seconds = static_cast<double>(plan.memory.received) / (config.network * kGiga);
  return plan;
}

std::vector<std::string> assumptions_of(const PlanConfig& config, const StepClock& clock,
                                        const char* network) {
  std::vector<std::string> lines = clock.assumptions();
  lines.push_back(
      fmt::format("a rank receives {:.3g} GB/s ({}), while it computes", config.network, network));
  lines.emplace_back("the loader keeps up; checkpoints and the online k-NN are not counted");
  lines.emplace_back("memory without decoded images that are kept (--cache-gib 0)");
  return lines;
}

/// Rows of --table: the batch per rank stays that of the command line.
std::vector<std::pair<std::string, int>> table_rows() {
  std::vector<std::pair<std::string, int>> rows;
  for (const char* preset : {"vits14", "vitb14", "vitl14", "vitg14"})
    for (int ranks = 8; ranks <= 1024; ranks *= 2) rows.emplace_back(preset, ranks);
  return rows;
}

nlohmann::ordered_json json_of(const StepShape& shape, int ranks, const Plan& plan, int64_t steps,
                               int64_t gpu_bytes) {
  nlohmann::ordered_json json{{"preset", shape.preset},
                              {"ranks", ranks},
                              {"batch", shape.batch},
                              {"strategy", name_of(shape.split.strategy)},
                              {"accumulate", shape.split.accumulate},
                              {"recompute", name_of(shape.split.recompute)},
                              {"bytes", bytes_object(plan.memory)},
                              {"bytes_max", plan.memory.total()},
                              {"communication_bytes_per_step", plan.memory.received},
                              {"checkpoint_bytes", plan.checkpoint},
                              {"compute_seconds", plan.compute_seconds},
                              {"network_seconds", plan.network_seconds},
                              {"step_seconds", plan.step_seconds()},
                              {"images_per_second_per_rank", plan.images / plan.step_seconds()},
                              {"days", plan.step_seconds() * static_cast<double>(steps) / kSecondsOfDay}};
  if (plan.device) {
    json["device_bytes"] = device_bytes_object(*plan.device);
    json["device_memory"] = gpu_bytes;
    json["fits"] = plan.device->total() <= gpu_bytes;
  }
  return json;
}

void print_header() {
  fmt::print("{:<8} {:>5} {:>6} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>13} {:>7}\n", "preset", "ranks",
             "batch", "weights", "gradients", "moments", "activations", "total", "network", "step",
             "images/s/rank", "days");
}

void print_row(const StepShape& shape, int ranks, const Plan& plan, int64_t steps) {
  const MemoryPlan& m = plan.memory;
  fmt::print("{:<8} {:>5} {:>6} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>13.3g} {:>7.1f}\n",
             shape.preset, ranks, shape.batch, human_bytes(m.parameters), human_bytes(m.gradients),
             human_bytes(m.optimizer), human_bytes(m.activations), human_bytes(m.total()),
             human_bytes(plan.memory.received), fmt::format("{:.2f} s", plan.step_seconds()),
             plan.images / plan.step_seconds(),
             plan.step_seconds() * static_cast<double>(steps) / kSecondsOfDay);
}

/// Fills in what a rank receives; where it is from.
const char* settle_network(PlanConfig& config, const Communicator& world) {
  if (config.network > 0) return "given";
  config.network = world.size() > 1 ? gather_rate(config.shape.device, world) / kGiga : kNetworkGb;
  return world.size() > 1 ? "measured between the ranks here" : "assumed";
}

ExitCode plan(PlanConfig config, CommandContext& context) {
  settle_device(config.shape.device, context.world);
  const char* network = settle_network(config, context.world);
  StepClock clock(config, resolve_threads(context), context.world);
  const bool on_gpu = kind_of(config.shape.device) != Device::Kind::cpu;
  const int64_t gpu_bytes = on_gpu ? -context.world.max(-ops::gpu_memory()) : 0;
  const bool prints = context.world.root() && !context.common.json;
  nlohmann::ordered_json json;
  if (config.table) {
    const int64_t per_rank = (config.shape.batch + config.ranks - 1) / config.ranks;
    json["rows"] = nlohmann::ordered_json::array();
    if (prints) print_header();
    for (const auto& [preset, ranks] : table_rows()) {
      StepShape shape = config.shape;
      shape.preset = preset;
      shape.batch = per_rank * ranks;
      const Plan row = plan_of(shape, ranks, config, clock);
      json["rows"].push_back(json_of(shape, ranks, row, config.steps, gpu_bytes));
      if (prints) print_row(shape, ranks, row, config.steps);
    }
    if (on_gpu) log::info("whether a row fits into the GPU's memory: --json, or plan it alone");
  } else {
    const auto ranks = static_cast<int>(config.ranks);
    const Plan row = plan_of(config.shape, ranks, config, clock);
    json = json_of(config.shape, ranks, row, config.steps, gpu_bytes);
    if (row.device) refuse_too_large(*row.device, gpu_bytes);
    if (prints) {
      print_header();
      print_row(config.shape, ranks, row, config.steps);
      if (row.device)
        fmt::print("of the GPU's {}: {} ({})\n", human_bytes(gpu_bytes), human_bytes(row.device->total()),
                   text_of(*row.device));
    }
  }
  const std::vector<std::string> assumptions = assumptions_of(config, clock, network);
  json["assumptions"] = assumptions;
  if (config.table) json["quoted"] = quoted_rows();
  context.result = json_line(json);
  if (prints)
    for (const std::string& line : assumptions) fmt::print("  {}\n", line);
  if (prints && config.table) fmt::print("{}", quoted_text());
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
      "without bytes. The ranks need not be there, and nothing is written.\n"
      "The time of a step is that of steps taken here and now, with the threads of this process for a rank: "
      "the step itself where it lasts a second or two, else it is put together from steps of fewer images "
      "and "
      "blocks of the model's own widths. That takes seconds, and tens of them for the largest models; beside "
      "other work the machine is slower, and so is the plan. Ranks that share a node are slower than one "
      "that "
      "is alone: start plan on as many (mpirun -n 8 dino-pretrain plan ...), and they are timed together, "
      "and "
      "their network with them; where they are as many as --ranks, with all that they send each other. "
      "--gflops gives a rate instead, and nothing is timed: at 121 TFLOP/s, "
      "--preset vitg14 --drop-path 0.4 comes to the 24 images/s of a GPU that follow from what is told of "
      "the published training; --table ends with such numbers and their sources.\n"
      "Bytes are the fp32 student, the EMA teacher, gradients and AdamW's moments, both heads among them; "
      "activations (with targets and prototypes); as workspace the units that are gathered and reduced; the "
      "copy from which a checkpoint is written; crops prepared ahead; and the program. With --device cuda "
      "what "
      "a rank has on its GPU is counted too, with cuBLASLt's workspaces, pictures of two steps and an "
      "allowance "
      "for the driver's context and NCCL, and what the GPU here cannot hold is refused (64). vitg14 on 64 "
      "ranks of "
      "16 images, full, fp16: parameters 141 MiB, moments 141 MiB, gradients 71 MiB, activations 26 GiB, "
      "workspace 865 MiB, checkpoint copy 282 MiB. Often quoted for the same are 31 MB of parameters, 125 MB "
      "of optimizer, 31 MB of gradients and 40 GB of activations: these leave out the fp32 master weights, "
      "the EMA teacher, the heads and the gathered units.";
  command.uses_mpi = launched_ranks() > 1;  // else it works on a login node
  command.examples = {{"--preset vitl14 --ranks 64 --batch 1024 --strategy full"},
                      {"--table --ranks 8 --batch 128 --strategy full --json"}};
  command.make = with_options(plan_options(), plan);
  return command;
}

}  // namespace dino::pretrain
