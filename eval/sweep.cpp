// SPDX-License-Identifier: Apache-2.0
// All probes of a recipe over several models and both floors. What RESULTS already holds is not done again.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "commands.hpp"
#include "features.hpp"
#include "imaging/decode_options.hpp"
#include "options.hpp"
#include "probe.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"

namespace dino::eval {

namespace {

struct SweepConfig {
  std::vector<std::string> weights, tasks = {"knn", "linear"};
  std::string train, test;
  FeaturesConfig features;
  KnnConfig knn;
  LinearConfig linear;
  bool floors = true;
};

/// The feature file of one model and data set, made unless it is there. Its name holds a hash of everything
/// that decides its content, so a checkpoint that has moved on gets a new file.
std::string features_of(const Communicator& world, const SweepConfig& config, const std::string& weights,
                        const std::string& data, const std::string& output, bool& stopped) {
  FeaturesConfig features = config.features;
  features.model.weights = weights;
  features.data = data;
  const auto identity =
      make_extractor(features.model, features.protocol, static_cast<uint64_t>(features.seed))->identity();
  Card card;
  card.set("model", identity.name).set("weights", identity.weights).set("data", data);
  card.set("features", features.protocol.card()).set("seed", features.seed).set("batch", features.batch);
  const std::string path = output + "/features/" + card.hash().substr(0, 16) + ".h5";
  bool there = world.root() && path_exists(path);
  there = world.any(there);
  if (there) {
    log::info(fmt::format("features of {} on {} are already in {}", identity.name, data, path));
    return path;
  }
  if (world.root()) make_folders(output + "/features");
  world.barrier();
  stopped = write_features(world, features, path).stopped;
  return path;
}

std::vector<std::string> models_of(const SweepConfig& config) {
  std::vector<std::string> models = config.weights;
  if (!config.floors) return models;
  const std::string& first = config.weights.front();
  const bool trained = first != "raw-pixels" && !first.starts_with("random:");
  if (trained) models.push_back("random:" + first);
  if (std::find(models.begin(), models.end(), "raw-pixels") == models.end())
    models.emplace_back("raw-pixels");
  return models;
}

ExitCode run_sweep(CommandContext& context, SweepConfig config) {
  const std::string& output = context.common.output;
  std::vector<std::string> lines;
  config.features.seed = config.linear.input.seed = context.common.seed;
  for (const std::string& weights : models_of(config)) {
    bool stopped = false;
    const std::string train = features_of(context.world, config, weights, config.train, output, stopped);
    const std::string test =
        stopped ? "" : features_of(context.world, config, weights, config.test, output, stopped);
    if (stopped || context.world.any(stop_requested())) {
      log::warning("stopped: start the same command again, it goes on where it was");
      return ExitCode::stopped;
    }
    for (const std::string& task : config.tasks) {
      ProbeInput& input = task == "knn" ? config.knn.input : config.linear.input;
      input.train = train;
      input.test = test;
      for (std::string& line : task == "knn" ? run_knn(context.world, config.knn, output)
                                             : run_linear(context.world, config.linear, output))
        lines.push_back(std::move(line));
      context.world.barrier();
    }
  }
  context.result = fmt::format("{{\"results\":[{}]}}", fmt::join(lines, ","));
  return ExitCode::done;
}

void check(const SweepConfig& config) {
  for (const std::string& task : config.tasks)
    if (task != "knn" && task != "linear")
      throw UsageError("sweep: --tasks: '" + task + "' is not a task of a sweep; use knn, linear");
  if (config.knn.k.empty() || config.linear.lr.empty())
    throw UsageError("sweep: --k, --lr: must name at least one value each");
  (void)parse_background(config.features.protocol.background);
  (void)parse_decode_memory(config.features.protocol.decode_memory);
}

}  // namespace

Command sweep_command() {
  Command command;
  command.name = "sweep";
  command.summary = "Run k-NN and linear probes for several models and both floors";
  command.usage = "--config R --weights W... --train REF --test REF --output RESULTS";
  command.description =
      "Extracts features of every model and of both floors (raw pixels; fresh weights of the first model's "
      "shape) "
      "into RESULTS/features/, and runs the tasks on them. Run again, it does only what is missing.";
  command.make = [](OptionTable& table) {
    auto config = std::make_shared<SweepConfig>();
    config->features.protocol.tokens = "both";
    table.section("models and data");
    table.add("weights", &config->weights, "Weights references.").required();
    table.add("train", &config->train, "Data reference of the training set.").required();
    table.add("test", &config->test, "Data reference of the test set.").required();
    table.add("tasks", &config->tasks, "knn, linear.");
    table.add("floors", &config->floors, "Also raw pixels, and fresh weights of the first model's shape.");
    table.add("precision", &config->features.model.precision, "Arithmetic of the forward pass.")
        .choices({"auto", "fp32", "bf16"});
    add_heads_option(table, config->features.model.heads);
    add_input_options(table, config->features.protocol);
    table.section("features and probes");
    table.add("tokens", &config->features.protocol.tokens, "Tokens to keep.")
        .choices({"cls", "patch", "both"});
    table.add("layers", &config->features.protocol.layers, "Class tokens of this many last blocks.")
        .range(1, 1000);
    table.add("batch", &config->features.batch, "Images per forward pass.").range(1, 4096);
    table.add("k", &config->knn.k, "Numbers of neighbours.");
    table.add("temperature", &config->knn.temperature, "Temperature of the vote.").range(1e-4, 100);
    table.add("lr", &config->linear.lr, "Learning rates of the linear grid.");
    table.add("epochs", &config->linear.epochs, "Passes of the linear probes.").range(1, 10000);
    return [config](CommandContext& context) {
      require_output(context, "results folder");
      check(*config);
      if (context.common.dry_run) {
        (void)open_dataset(config->train);
        (void)open_dataset(config->test);
        return ExitCode::done;
      }
      const auto lock = lock_output_folder(context, output_kind::results);
      return run_sweep(context, *config);
    };
  };
  return command;
}

}  // namespace dino::eval
