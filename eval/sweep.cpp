// SPDX-License-Identifier: Apache-2.0
// All tasks of a recipe over several models and both floors. What RESULTS already holds is not done again.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "commands.hpp"
#include "datasets/on_all_ranks.hpp"
#include "driver.hpp"
#include "inputs/features.hpp"
#include "options.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"

namespace dino::eval {

namespace {

/// Of decoded images on each rank.
constexpr int64_t kPreparedBytes = int64_t{256} << 20;

/// Whether a sweep can feed it: a train and a test set, or one of them.
bool fits_sweep(const TaskInfo& info) {
  std::set<TaskInput::Part> parts;
  for (const TaskInput& input : info.inputs)
    if (!parts.insert(input.part).second) return false;
  return !info.inputs.empty();
}

std::vector<std::string> task_names(bool usual) {
  std::vector<std::string> names;
  for (const TaskEntry& entry : tasks())
    if (usual ? entry.info.in_sweep : fits_sweep(entry.info)) names.push_back(entry.info.name);
  return names;
}

struct SweepConfig {
  SweepConfig() { features.protocol.tokens = Tokens::both; }
  std::vector<std::string> weights;
  std::vector<std::string> tasks = task_names(true);
  std::string train, test;    ///< of a set that comes in two parts
  std::string data, dataset;  ///< or one reference, of which a part is held out
  FeaturesConfig features;
  bool floors = true;
  std::vector<std::shared_ptr<Task>> made;  ///< by task that a sweep can feed, with its options
};

/// A model of the sweep, and the input that it takes.
struct Model {
  std::string weights;
  ModelIdentity identity;
  FeatureProtocol protocol;
  bool is_floor = false;
};

Model settle(const SweepConfig& config, const std::string& weights, const InputOptions& input) {
  ModelOptions options = config.features.model;
  options.weights = weights;
  Model model{weights, {}, config.features.protocol, false};
  const auto extractor = make_extractor(options, static_cast<uint64_t>(config.features.seed));
  extractor->settle(input, model.protocol);
  model.identity = extractor->identity();
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
  for (Model& floor : floors) floor.is_floor = true;
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

/// One task on one model; the features that it reads are made where they are not there. Returns whether the
/// features came to a stop.
bool run_one(const SweepConfig& config, const TaskEntry& entry, Task& task, const Model& model,
             Shared& shared, CommandContext& context, std::vector<std::string>& lines) {
  const bool held_out = !config.data.empty();
  TaskOptions options;
  options.model = config.features.model;
  options.model.weights = model.weights;
  options.dataset = config.dataset;
  options.floors = config.floors;
  for (size_t i = 0; i < entry.info.inputs.size(); ++i) {
    const TaskInput& input = entry.info.inputs[i];
    const bool train = input.part == TaskInput::Part::train;
    Source& source = options.source(i);
    source.reference = held_out ? config.data : train ? config.train : config.test;
    if (held_out) source.split = train ? Split::train : Split::test;
    source.test_fraction = config.features.protocol.test_fraction;
    if (input.kind != TaskInput::Kind::features) continue;
    bool stopped = false;
    source.reference = features_of(context.world, config, model, source.reference, source.split,
                                   context.common.output, stopped);
    if (stopped) return true;
  }
  const TaskPlace place{context.world, shared, context.common.output, context.common.seed};
  const bool encodes = entry.info.encoder != TaskInfo::Encoder::none;
  // Tasks on images bring their own floors, on their own input.
  if (encodes && model.is_floor) return false;
  for (std::string& line : run_task(entry, task, options, place).rows) lines.push_back(std::move(line));
  context.world.barrier();
  return false;
}

ExitCode run_sweep(CommandContext& context, SweepConfig config) {
  std::vector<std::string> lines;
  config.features.seed = context.common.seed;
  if (!config.data.empty()) {
    const std::string why = why_no_probe(config, open_on_all_ranks(config.data, context.world));
    if (!why.empty()) {
      log::info("no k-NN and no linear probe: " + why);
      context.result = json_line({{"results", nlohmann::json::array()}, {"why", why}});
      return ExitCode::done;
    }
  }
  const std::vector<Model> models = models_of(config);
  if (models.size() > 1) config.features.prepared = std::make_shared<PreparedImages>(kPreparedBytes);
  Shared shared;
  for (const Model& model : models) {
    size_t index = 0;
    for (const TaskEntry& entry : tasks()) {
      if (!fits_sweep(entry.info)) continue;
      Task& task = *config.made[index++];
      if (std::find(config.tasks.begin(), config.tasks.end(), entry.info.name) == config.tasks.end())
        continue;
      if (run_one(config, entry, task, model, shared, context, lines) ||
          context.world.any(stop_requested())) {
        log::warning("stopped: start the same command again, it goes on where it was");
        return ExitCode::stopped;
      }
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
  if (config.tasks.empty()) throw UsageError("sweep: --tasks: is empty; name at least one task");
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
  Schema<C> schema;
  schema.section("models and data");
  schema.add("weights", &C::weights, "Weights references.").required();
  schema.add("train", &C::train, "Data reference of the training set.");
  schema.add("test", &C::test, "Data reference of the test set.");
  schema.add("data", &C::data, "Data reference of one set, of which a part is held out.");
  schema.add("dataset", &C::dataset, "Name of the data set in results (default: from the test set).");
  schema.add("tasks", &C::tasks, "Tasks to run.").choices(task_names(false));
  schema.add("floors", &C::floors, "Also raw pixels, and fresh weights of the model's shape.");
  schema.add(&C::features, features);
  return schema;
}

ExitCode start_sweep(SweepConfig config, CommandContext& context) {
  check(config);
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
  command.summary = "Run tasks for several models and both floors";
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
  command.make = [](OptionTable& table) -> std::function<ExitCode(CommandContext&)> {
    auto config = std::make_shared<SweepConfig>();
    table.bind(sweep_options(), *config);
    for (const TaskEntry& entry : tasks()) {
      if (!fits_sweep(entry.info)) continue;
      config->made.push_back(entry.make());
      config->made.back()->sweep_options(table);
    }
    return [config](CommandContext& context) { return start_sweep(*config, context); };
  };
  return command;
}

}  // namespace dino::eval
