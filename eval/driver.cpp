// SPDX-License-Identifier: Apache-2.0
#include "driver.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "comm/together.hpp"
#include "commands.hpp"
#include "datasets/on_all_ranks.hpp"
#include "inputs/features.hpp"
#include "options.hpp"
#include "storage/files.hpp"
#include "storage/output_folder.hpp"

namespace dino::eval {

std::shared_ptr<const FeatureSet> Shared::features(const std::string& path) {
  for (const auto& [name, set] : files_)
    if (name == path) return set;
  if (files_.size() == kMostInputs) files_.erase(files_.begin());
  return files_.emplace_back(path, std::make_shared<const FeatureSet>(read_features(path))).second;
}

std::shared_ptr<Extractor> Shared::encoder(const ModelOptions& model, uint64_t seed) {
  const std::string key = fmt::format("{}\n{}\n{} {} {} {}", model.weights, model.name, name_of(model.which),
                                      model.heads, model.patch, seed);
  if (key != encoder_key_) {
    encoder_.reset();  // before the next one takes its memory
    encoder_ = make_extractor(model, seed);
    encoder_key_ = key;
  }
  return encoder_;
}

size_t TaskRun::index_of(const char* flag, TaskInput::Kind kind) const {
  const auto it = std::find_if(info.inputs.begin(), info.inputs.end(), [&](const TaskInput& input) {
    return std::string_view(input.flag) == flag && input.kind == kind;
  });
  DINO_CHECK(it != info.inputs.end(), info.name + " has no such input: " + flag);
  return static_cast<size_t>(it - info.inputs.begin());
}

std::shared_ptr<const FeatureSet> TaskRun::features(const char* flag) {
  return shared_.features(options.source(index_of(flag, TaskInput::Kind::features)).reference);
}

Dataset TaskRun::images(const char* flag) {
  const Source& source = options.source(index_of(flag, TaskInput::Kind::images));
  Dataset dataset = open_on_all_ranks(source.reference, world);
  std::erase_if(dataset.records,
                [&](const Record& record) { return !in_split(record, source.split, source.test_fraction); });
  if (dataset.records.empty())
    throw DataError(fmt::format("{}: --{} {}: split {} holds no image; change --test-fraction", info.name,
                                flag, source.reference, name_of(source.split)));
  return dataset;
}

Extractor& TaskRun::encoder(const InputOptions& input, FeatureProtocol& protocol) {
  const size_t call = settled.size();
  ModelOptions model = options.model;
  settle_device(model.device, world);
  encoder_ = shared_.encoder(model, static_cast<uint64_t>(seed));
  if (info.encoder == TaskInfo::Encoder::attention && encoder_->heads() == 0)
    throw UsageError(fmt::format("{}: --weights {}: has no attention; name a vision transformer", info.name,
                                 options.model.weights));
  encoder_->settle(call < like.size() ? input_of(like[call]) : input, protocol);
  settled.push_back(protocol);
  patch = encoder_->patch_side();
  return *encoder_;
}

ResultRow TaskRun::row(const Plan& plan, const Protocol& protocol) const {
  ResultRow row;
  row.task = info.name;
  row.dataset = options.dataset.empty() ? dataset_name(plan.data) : options.dataset;
  row.model = plan.model.name;
  row.weights = plan.model.weights;
  row.model_input = plan.model.input;
  row.card = protocol.card.json();
  row.card_hash = protocol.card.hash();
  return row;
}

PictureSet TaskRun::pictures(const std::string& kind, const Plan& plan, const Protocol& protocol) const {
  return {output, kind, row(plan, protocol)};
}

namespace {

/// Of a protocol's rows and pictures.
bool is_there(const TaskRun& run, const ResultStore& store, const Plan& plan, const Protocol& protocol) {
  ResultRow row = run.row(plan, protocol);
  for (const std::string& metric : protocol.metrics) {
    row.metric = metric;
    if (store.find(row) == nullptr) return false;
  }
  if (!protocol.file.empty() && !path_exists(run.output + "/" + protocol.file)) return false;
  return protocol.pictures.empty() || run.pictures(protocol.pictures, plan, protocol).exists();
}

std::vector<size_t> missing_of(const TaskRun& run, const Plan& plan) {
  std::vector<int64_t> missing;
  on_root(run.world, [&] {
    const ResultStore store(run.output);
    for (size_t p = 0; p < plan.protocols.size(); ++p)
      if (run.options.force || !is_there(run, store, plan, plan.protocols[p]))
        missing.push_back(static_cast<int64_t>(p));
  });
  auto count = static_cast<int64_t>(missing.size());
  run.world.broadcast_span(std::span(&count, 1));
  missing.resize(static_cast<size_t>(count));
  run.world.broadcast_span(std::span(missing));
  return {missing.begin(), missing.end()};
}

/// Appends what was computed for one protocol.
void keep(const TaskRun& run, ResultStore& store, const Plan& plan, const Outcome& outcome, double seconds,
          std::vector<std::string>& lines) {
  ResultRow row = run.row(plan, plan.protocols[outcome.protocol]);
  row.seconds = seconds;
  const std::string file = predictions_name(row);
  if (outcome.predictions) write_predictions(run.output + "/" + file, *outcome.predictions);
  for (const Score& score : outcome.scores) {
    row.metric = score.metric;
    row.estimate = score.estimate;
    row.oracle = score.oracle;
    row.predictions = score.from_predictions ? file : "";
    const bool added = store.add(row, run.options.force);
    lines.push_back(to_json_line(added ? store.rows().back() : *store.find(row)));
  }
}

/// Says that nothing is computed for it.
void leave(const TaskRun& run, ResultStore& store, const Plan& plan, const Protocol& protocol,
           std::vector<std::string>& lines) {
  ResultRow row = run.row(plan, protocol);
  for (const std::string& metric : protocol.metrics) {
    row.metric = metric;
    const ResultRow known = *store.find(row);
    store.add(known, false);
    lines.push_back(to_json_line(known));
  }
  if (!protocol.pictures.empty())
    log::info("these pictures are already in " + run.output +
              ", kept as they are (--force draws them again)");
}

/// One model.
TaskResult run_once(Task& task, TaskRun& run) {
  const log::Phase phase(run.info.name.c_str());
  const Stopwatch watch;
  const Plan plan = task.plan(run);
  const std::vector<size_t> wanted = missing_of(run, plan);
  std::vector<Outcome> outcomes;
  if (!wanted.empty()) outcomes = task.run(run, plan, wanted);
  TaskResult result;
  on_root(run.world, [&] {
    ResultStore store(run.output);
    for (size_t p = 0; p < plan.protocols.size(); ++p) {
      const auto it = std::find_if(outcomes.begin(), outcomes.end(),
                                   [&](const Outcome& outcome) { return outcome.protocol == p; });
      if (it != outcomes.end())
        keep(run, store, plan, *it, watch.seconds(), result.rows);
      else if (std::find(wanted.begin(), wanted.end(), p) == wanted.end())
        leave(run, store, plan, plan.protocols[p], result.rows);
    }
  });
  result.json = run.json;
  return result;
}

Schema<TaskOptions> task_options(const TaskInfo& info) {
  using C = TaskOptions;
  constexpr Source C::*sources[] = {&C::first, &C::second, &C::third};
  static_assert(std::size(sources) == kMostInputs);
  DINO_CHECK(info.inputs.size() <= kMostInputs, info.name + " has too many inputs");
  Schema<C> schema;
  if (info.encoder != TaskInfo::Encoder::none) schema.add(&C::model, model_options());
  schema.section("data");
  for (size_t i = 0; i < info.inputs.size(); ++i)
    schema.add(info.inputs[i].flag, sources[i], &Source::reference, info.inputs[i].help).required();
  schema.add("dataset", &C::dataset,
             fmt::format("Name of the data set in results (default: from --{}).", info.inputs.back().flag));
  schema.add("force", &C::force, "Append the result even if RESULTS already has one with the same card.");
  if (info.encoder == TaskInfo::Encoder::tokens)
    schema.add("patch", &C::model, &ModelOptions::patch, "Patch side of raw-pixels.").range(1, 256);
  if (info.encoder != TaskInfo::Encoder::none)
    schema.add("floors", &C::floors, "Also raw pixels, and fresh weights of the model's shape.");
  return schema;
}

}  // namespace

TaskResult run_task(const TaskEntry& entry, Task& task, const TaskOptions& options, const TaskPlace& place) {
  const auto run_of = [&](const TaskOptions& chosen) {
    return TaskRun(place.world, entry.info, chosen, place.shared, place.output, place.seed);
  };
  TaskRun run = run_of(options);
  TaskResult result = run_once(task, run);
  const std::string& weights = options.model.weights;
  if (!options.floors || entry.info.encoder == TaskInfo::Encoder::none || weights == "raw-pixels")
    return result;
  std::vector<std::string> floors;
  if (!weights.starts_with("random:")) floors.push_back("random:" + weights);
  if (entry.info.encoder == TaskInfo::Encoder::tokens) floors.emplace_back("raw-pixels");
  for (const std::string& floor : floors) {
    TaskOptions chosen = options;
    chosen.model.weights = floor;
    chosen.model.name.clear();
    chosen.model.patch = run.patch;
    TaskRun again = run_of(chosen);
    again.like = run.settled;
    TaskResult more = run_once(task, again);
    std::move(more.rows.begin(), more.rows.end(), std::back_inserter(result.rows));
  }
  return result;
}

namespace {

ExitCode start_task(const TaskEntry& entry, Task& task, const TaskOptions& options, CommandContext& context) {
  if (context.common.dry_run) {
    Shared shared;
    TaskRun run(context.world, entry.info, options, shared, context.common.output, context.common.seed);
    const Plan plan = task.plan(run);
    log::info(fmt::format("{}: {} protocol(s) of {} on {}", entry.info.name, plan.protocols.size(),
                          plan.model.name, plan.data));
    return ExitCode::done;
  }
  const auto lock = lock_output_folder(context, output_kind::results);
  Shared shared;
  const TaskResult result =
      run_task(entry, task, options, {context.world, shared, context.common.output, context.common.seed});
  if (!context.world.root()) return ExitCode::done;
  if (!result.rows.empty()) (void)report_rows(context, result.rows);
  if (context.result.empty())
    context.result = result.json;
  else if (result.json.size() > 2)
    context.result = context.result.substr(0, context.result.size() - 1) + "," + result.json.substr(1);
  return ExitCode::done;
}

}  // namespace

Command task_command(const TaskEntry& entry) {
  Command command;
  command.name = entry.info.name;
  command.summary = entry.info.summary;
  command.usage = entry.info.usage;
  command.description = entry.info.description;
  command.examples = entry.info.examples;
  command.output = "Results folder.";
  command.make = [&entry](OptionTable& table) -> std::function<ExitCode(CommandContext&)> {
    auto options = std::make_shared<TaskOptions>();
    const std::shared_ptr<Task> task = entry.make();
    table.bind(task_options(entry.info), *options);
    task->options(table);
    return [&entry, options, task](CommandContext& context) {
      return start_task(entry, *task, *options, context);
    };
  };
  return command;
}

std::vector<Command> all_commands() {
  std::vector<Command> commands = {features_command()};
  for (const TaskEntry& entry : tasks()) commands.push_back(task_command(entry));
  for (Command (*make)() : {align_command, fuse_command, relevance_command, sweep_command, report_command, compare_command, bench_command})
    commands.push_back(make());
  return commands;
}

}  // namespace dino::eval
