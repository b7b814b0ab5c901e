// SPDX-License-Identifier: Apache-2.0
// All probes of a recipe over several models and both floors. What RESULTS already holds is not done again.
#include <fmt/format.h>

#include <iterator>
#include <set>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "commands.hpp"
#include "datasets/on_all_ranks.hpp"
#include "features.hpp"
#include "options.hpp"
#include "probe.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"

namespace dino::eval {

namespace {

/// Of decoded images on each rank.
constexpr int64_t kPreparedBytes = int64_t{256} << 20;

enum class Task : uint8_t { knn, linear };
constexpr auto names_of(Task) {
  return std::to_array<Named<Task>>({{"knn", Task::knn}, {"linear", Task::linear}});
}

struct SweepConfig {
  SweepConfig() { features.protocol.tokens = Tokens::both; }
  std::vector<std::string> weights;
  std::vector<Task> tasks = {Task::knn, Task::linear};
  std::string train, test;    ///< of a set that comes in two parts
  std::string data, dataset;  ///< or one reference, of which a part is held out
  FeaturesConfig features;
  KnnConfig knn;
  LinearConfig linear;
  bool floors = true;
};

/// A model of the sweep, and the input that it takes.
struct Model {
  std::string weights;
  ModelIdentity identity;
  FeatureProtocol protocol;
};

Model settle(const SweepConfig& config, const std::string& weights, const InputOptions& input) {
  ModelOptions options = config.features.model;
  options.weights = weights;
  Model model{weights, {}, config.features.protocol};
  model.identity =
      make_extractor(options, input, model.protocol, static_cast<uint64_t>(config.features.seed))->identity();
  return model;
}

/// The weights in order, then both floors for every input that they take: only results of the same protocol
/// can be compared.
std::vector<Model> models_of(const SweepConfig& config) {
  std::vector<Model> models;
  bool raw = config.floors;
  for (const std::string& weights : config.weights) {
    if (weights == "raw-pixels")
      raw = true;
    else
      models.push_back(settle(config, weights, config.features.input));
  }
  if (models.empty()) return {settle(config, "raw-pixels", config.features.input)};
  std::vector<Model> floors;
  std::set<std::string> seen;
  for (const Model& model : models) {
    if (!seen.insert(model.protocol.card().json()).second) continue;
    const InputOptions same = input_of(model.protocol);
    if (config.floors && !model.weights.starts_with("random:"))
      floors.push_back(settle(config, "random:" + model.weights, same));
    if (raw) floors.push_back(settle(config, "raw-pixels", same));
  }
  std::move(floors.begin(), floors.end(), std::back_inserter(models));
  return models;
}

/// The feature file of one model and data set, made unless it is there. Its name holds a hash of everything
/// that decides its content, so a checkpoint that has moved on gets a new file.
std::string features_of(const Communicator& world, const SweepConfig& config, const Model& model,
                        const std::string& data, Split split, const std::string& output, bool& stopped) {
  FeaturesConfig features = config.features;
  features.model.weights = model.weights;
  features.data = data;
  features.protocol = model.protocol;
  features.protocol.split = split;
  features.input = input_of(model.protocol);
  Card card;
  card.set("model", model.identity.name).set("weights", model.identity.weights).set("data", data);
  card.set("features", features.protocol.card()).set("seed", features.seed).set("batch", features.batch);
  if (split != Split::all)
    card.set("split", name_of(split)).set("test_fraction", features.protocol.test_fraction);
  const std::string path = output + "/features/" + card.hash().substr(0, 16) + ".h5";
  bool there = world.root() && path_exists(path);
  there = world.any(there);
  if (there) {
    log::info(fmt::format("features of {} on {}{} are already in {}", model.identity.name, data,
                          split == Split::all ? "" : fmt::format(", part {}", name_of(split)), path));
    return path;
  }
  if (world.root()) make_folders(output + "/features");
  world.barrier();
  stopped = write_features(world, features, path).stopped;
  return path;
}

/// Why a part of the data cannot be held out to measure on, or nothing.
std::string why_no_probe(const SweepConfig& config, const Dataset& dataset) {
  constexpr int64_t kLeastImages = 20, kLeastPerClass = 3;
  std::set<int32_t> classes;
  int64_t train = 0, test = 0;
  for (const Record& record : dataset.records) {
    if (record.label < 0) continue;
    const bool held = in_split(record, Split::test, config.features.protocol.test_fraction);
    ++(held ? test : train);
    if (!held) classes.insert(record.label);
  }
  const auto kinds = static_cast<int64_t>(classes.size());
  if (train + test == 0)
    return config.data + " names no classes (with a sub-folder for each class they are run)";
  if (kinds < 2) return config.data + " has images of one class only";
  if (train + test < kLeastImages || train + test < kLeastPerClass * kinds || test == 0)
    return fmt::format("{} has {} labelled images of {} classes, too few to hold some out", config.data,
                       train + test, kinds);
  log::info(
      fmt::format("{} of {} labelled images of {} classes are held out to measure on, by a hash of their "
                  "keys",
                  test, train + test, kinds));
  return "";
}

ExitCode run_sweep(CommandContext& context, SweepConfig config) {
  const std::string& output = context.common.output;
  std::vector<std::string> lines;
  config.features.seed = config.linear.input.seed = context.common.seed;
  const bool held_out = !config.data.empty();
  config.knn.input.dataset = config.linear.input.dataset = config.dataset;
  if (held_out) {
    const std::string why = why_no_probe(config, open_on_all_ranks(config.data, context.world));
    if (!why.empty()) {
      log::info("no k-NN and no linear probe: " + why);
      context.result = json_line({{"results", nlohmann::json::array()}, {"why", why}});
      return ExitCode::done;
    }
  }
  const std::vector<Model> models = models_of(config);
  if (models.size() > 1) config.features.prepared = std::make_shared<PreparedImages>(kPreparedBytes);
  for (const Model& model : models) {
    bool stopped = false;
    const auto features = [&](const std::string& data, Split split) {
      return stopped ? "" : features_of(context.world, config, model, data, split, output, stopped);
    };
    const std::string train =
        held_out ? features(config.data, Split::train) : features(config.train, Split::all);
    const std::string test =
        held_out ? features(config.data, Split::test) : features(config.test, Split::all);
    if (stopped || context.world.any(stop_requested())) {
      log::warning("stopped: start the same command again, it goes on where it was");
      return ExitCode::stopped;
    }
    for (const Task task : config.tasks) {
      ProbeInput& input = task == Task::knn ? config.knn.input : config.linear.input;
      input.train = train;
      input.test = test;
      for (std::string& line : task == Task::knn ? run_knn(context.world, config.knn, output)
                                                 : run_linear(context.world, config.linear, output))
        lines.push_back(std::move(line));
      context.world.barrier();
    }
  }
  return report_rows(context, lines);
}

void check(const SweepConfig& config) {
  if (config.data.empty() ? config.train.empty() || config.test.empty()
                          : !config.train.empty() || !config.test.empty())
    throw UsageError(
        "sweep: --train, --test, --data: give either --train and --test, or --data, of which a part is held "
        "out");
  if (config.knn.k.empty() || config.linear.lr.empty())
    throw UsageError("sweep: --k, --lr: must name at least one value each");
}

}  // namespace

namespace {

Schema<SweepConfig> sweep_options() {
  using C = SweepConfig;
  Schema<FeaturesConfig> features;
  features.add(&FeaturesConfig::model, backbone_options());
  features
      .add("test-fraction", &FeaturesConfig::protocol, &FeatureProtocol::test_fraction,
           "Share of the images (or groups) of --data that is held out.")
      .range(0.001, 0.999);
  declare_extraction(features);
  Schema<KnnConfig> votes;
  declare_vote(votes);
  Schema<LinearConfig> heads;
  declare_heads(heads);
  Schema<C> schema;
  schema.section("models and data");
  schema.add("weights", &C::weights, "Weights references.").required();
  schema.add("train", &C::train, "Data reference of the training set.");
  schema.add("test", &C::test, "Data reference of the test set.");
  schema.add("data", &C::data, "Data reference of one set, of which a part is held out.");
  schema.add("dataset", &C::dataset, "Name of the data set in results (default: from the test set).");
  schema.add("tasks", &C::tasks, "Probes to run.");
  schema.add("floors", &C::floors, "Also raw pixels, and fresh weights of the model's shape.");
  schema.add(&C::features, features).add(&C::knn, votes).add(&C::linear, heads);
  return schema;
}

ExitCode start_sweep(SweepConfig config, CommandContext& context) {
  check(config);
  config.knn.k_as_fits = config.knn.k == KnnConfig{}.k;
  if (context.common.dry_run) {
    for (const std::string& data : {config.train, config.test, config.data})
      if (!data.empty()) (void)open_dataset(data);
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::results);
  return run_sweep(context, config);
}

}  // namespace

Command sweep_command() {
  Command command;
  command.name = "sweep";
  command.summary = "Run k-NN and linear probes for several models and both floors";
  command.usage = "--weights W... (--train REF --test REF | --data REF) --output RESULTS";
  command.description =
      "Extracts features of every model and of both floors (raw pixels; fresh weights of the model's shape) "
      "into RESULTS/features/, and runs the tasks on them. Run again, it does only what is missing. Every "
      "model gets its images as it was trained, and the floors as the model that they are compared with. Of "
      "--data a part is held out to measure on, by a hash of the images' keys; where it names no classes, or "
      "too few images for that, this is said and nothing is run.";
  command.output = "Results folder.";
  command.examples = {{"--weights run --data photos --output results"},
                      {"--weights run other --train icons/train --test icons/test --output results"}};
  command.make = with_options(sweep_options(), start_sweep);
  return command;
}

}  // namespace dino::eval
