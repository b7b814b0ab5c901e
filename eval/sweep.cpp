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
  std::vector<std::string> train, test;  ///< of sets that come in two parts
  std::vector<std::string> data;         ///< or one reference each, of which a part is held out
  std::vector<std::string> dataset;      ///< their names in results
  FeaturesConfig features;
  bool floors = true;
  std::vector<std::shared_ptr<Task>> made;  ///< by task that a sweep can feed, with its options
};

/// A data set of the sweep.
struct DataSet {
  std::string train, test;  ///< the same where a part is held out
  std::string name;
  bool held_out = false;
};

std::vector<DataSet> sets_of(const SweepConfig& config) {
  std::vector<DataSet> sets;
  for (size_t i = 0; i < config.train.size(); ++i)
    sets.push_back({config.train[i], config.test[i], "", false});
  for (const std::string& data : config.data) sets.push_back({data, data, "", true});
  for (size_t i = 0; i < std::min(sets.size(), config.dataset.size()); ++i) sets[i].name = config.dataset[i];
  return sets;
}

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
  const std::string& data = dataset.reference;
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
  if (train + test == 0) return data + " names no classes (with a sub-folder for each class they are run)";
  if (kinds < 2) return data + " has images of one class only";
  if (train + test < kLeastImages || train + test < kLeastPerClass * kinds || test == 0)
    return fmt::format("{} has {} labelled images of {} classes, too few to hold some out", data,
                       train + test, kinds);
  log::info(
      fmt::format("{} of {} labelled images of {} classes are held out to measure on, by a hash of their "
                  "keys",
                  test, train + test, kinds));
  return "";
}

/// One task on one model; the features that it reads are made where they are not there. Returns whether the
/// features came to a stop.
bool run_one(const SweepConfig& config, const DataSet& set, const TaskEntry& entry, Task& task,
             const Model& model, Shared& shared, CommandContext& context, std::vector<std::string>& lines) {
  TaskOptions options;
  options.model = config.features.model;
  options.model.weights = model.weights;
  options.dataset = set.name;
  options.floors = config.floors;
  for (size_t i = 0; i < entry.info.inputs.size(); ++i) {
    const TaskInput& input = entry.info.inputs[i];
    const bool train = input.part == TaskInput::Part::train;
    Source& source = options.source(i);
    source.reference = train ? set.train : set.test;
    if (set.held_out) source.split = train ? Split::train : Split::test;
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

/// All tasks and models on one data set. Returns whether it came to a stop.
bool run_set(const SweepConfig& config, const DataSet& set, const std::vector<Model>& models, Shared& shared,
             CommandContext& context, std::vector<std::string>& lines) {
  for (const Model& model : models) {
    size_t index = 0;
    for (const TaskEntry& entry : tasks()) {
      if (!fits_sweep(entry.info)) continue;
      Task& task = *config.made[index++];
      if (std::find(config.tasks.begin(), config.tasks.end(), entry.info.name) == config.tasks.end())
        continue;
      if (run_one(config, set, entry, task, model, shared, context, lines) ||
          context.world.any(stop_requested()))
        return true;
    }
  }
  return false;
}

ExitCode run_sweep(CommandContext& context, SweepConfig config) {
  std::vector<std::string> lines;
  std::string left_out;
  config.features.seed = context.common.seed;
  std::vector<DataSet> sets = sets_of(config);
  std::erase_if(sets, [&](const DataSet& set) {
    if (!set.held_out) return false;
    const std::string why = why_no_probe(config, open_on_all_ranks(set.train, context.world));
    if (why.empty()) return false;
    log::info("nothing to measure on: " + why);
    left_out += (left_out.empty() ? "" : "; ") + why;
    return true;
  });
  if (sets.empty()) {
    context.result = json_line({{"results", nlohmann::json::array()}, {"why", left_out}});
    return ExitCode::done;
  }
  const std::vector<Model> models = models_of(config);
  Shared shared;
  for (const DataSet& set : sets) {
    config.features.prepared = models.size() > 1 ? std::make_shared<PreparedImages>(kPreparedBytes) : nullptr;
    if (!run_set(config, set, models, shared, context, lines)) continue;
    log::warning("stopped: start the same command again, it goes on where it was");
    return ExitCode::stopped;
  }
  return report_rows(context, lines);
}

void check(const SweepConfig& config) {
  if (config.data.empty() ? config.train.empty() || config.test.size() != config.train.size()
                          : !config.train.empty() || !config.test.empty())
    throw UsageError(
        "sweep: --train, --test, --data: give either --train and --test (as many of each), or --data, of "
        "which a part is held out");
  const size_t sets = std::max(config.data.size(), config.train.size());
  if (!config.dataset.empty() && config.dataset.size() != sets)
    throw UsageError(fmt::format("sweep: --dataset: {} names for {} data sets; give one for each",
                                 config.dataset.size(), sets));
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
  schema.add("train", &C::train, "Data references of the training sets.");
  schema.add("test", &C::test, "Data references of the test sets, in the same order.");
  schema.add("data", &C::data, "Data references of sets of which a part is held out.");
  schema.add("dataset", &C::dataset, "Names of the data sets in results (default: from the test sets).");
  schema.add("tasks", &C::tasks, "Tasks to run.").choices(task_names(false));
  schema.add("floors", &C::floors, "Also raw pixels, and fresh weights of the model's shape.");
  schema.add(&C::features, features);
  return schema;
}

ExitCode start_sweep(SweepConfig config, CommandContext& context) {
  check(config);
  if (context.common.dry_run) {
    for (const DataSet& set : sets_of(config))
      for (const std::string& data : {set.train, set.test}) (void)open_dataset(data);
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::results);
  return run_sweep(context, config);
}

}  // namespace

Command sweep_command() {
  Command command;
  command.name = "sweep";
  command.summary = "Run tasks on several data sets, for several models and both floors";
  command.usage = "--weights W... (--train REF... --test REF... | --data REF...) --output RESULTS";
  command.description =
      "Extracts features of every model and of both floors (raw pixels; fresh weights of the model's shape) "
      "into RESULTS/features/, and runs the tasks on them. Run again, it does only what is missing. Every "
      "model gets its images as it was trained, and the floors as the model that they are compared with. Of "
      "--data a part is held out to measure on, by a hash of the images' keys; where it names no classes, or "
      "too few images for that, this is said and nothing is run.";
  command.output = "Results folder.";
  command.examples = {{"--weights run --data photos --output results"},
                      {"--weights run other --train icons/train --test icons/test --output results"},
                      {"--weights run/checkpoints/step_1000 run/checkpoints/step_2000 --data icons emoji "
                       "--output results",
                       "A checkpoint series on two data sets."}};
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
