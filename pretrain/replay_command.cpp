// SPDX-License-Identifier: Apache-2.0
// replay: a captured step again, on one rank, module by module.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/cpu.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "capture.hpp"
#include "comm/together.hpp"
#include "commands.hpp"
#include "model/weights.hpp"
#include "module_watch.hpp"
#include "step_draws.hpp"
#include "train_config.hpp"

namespace dino::pretrain {
namespace {

struct ReplayConfig {
  std::string capture;
};

[[noreturn]] void does_not_fit(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("cannot replay: {}: {}; use a capture that this version wrote", path, why));
}

/// The settings of the run, on one rank.
TrainConfig settings_of(const Capture& capture, const std::string& path) {
  const CaptureFacts& facts = capture.facts;
  TrainConfig config;
  CommonOptions common;
  OptionTable table;
  table.bind(train_options(), config).bind(common_options(), common);
  try {
    table.parse_ini(facts.config_ini, path);
    complete(config);
  } catch (const UsageError& error) {
    does_not_fit(path, error.what());
  }
  const auto precision = value_named<Precision>(facts.precision);
  if (!precision) does_not_fit(path, fmt::format("its precision is \"{}\"", facts.precision));
  config.precision = *precision;
  // A GPU's step goes on a GPU again, where there is one.
  if (kind_of(config.device) != Device::Kind::cpu) config.device = {};
  config.vit = vit_config_from_json(facts.model_json, path);
  config.batch = facts.batch;
  // Pieces of the size that a rank had, so that the memory does.
  config.split.strategy = Strategy::replicate;
  config.split.hybrid_ranks = 0;
  config.split.accumulate = std::min(facts.batch, facts.accumulate * facts.ranks);
  return config;
}

void check_inputs(const Capture& capture, const TrainConfig& config, const std::string& path) {
  const int64_t batch = capture.facts.batch, patches = config.global_size / config.vit->patch;
  const auto is = [&](const Tensor& tensor, const Shape& shape) { return tensor.shape() == shape; };
  const int64_t g = config.global_size, l = config.local_size, locals = config.local_count;
  if (batch < 1 || capture.facts.ranks < 1 || capture.facts.accumulate < 1 ||
      !is(capture.global_crops, Shape{2 * batch, 3, g, g}) ||
      (locals > 0 && !is(capture.local_crops, Shape{locals * batch, 3, l, l})) ||
      !is(capture.masks, Shape{2 * batch, patches * patches}) ||
      static_cast<int64_t>(capture.keys.size()) != batch)
    does_not_fit(path, "its inputs are not those of its settings");
}

/// Both networks as they were; what they hold is looked at on the way.
void load_networks(const Capture& capture, Engine& engine, ModuleWatch& watch, const std::string& path) {
  HostStream stream;
  const auto values_of = [&](const std::string& network, int64_t unit) {
    const UnitInfo& info = engine.layout().units()[static_cast<size_t>(unit)];
    Tensor values = capture.parameters(network, info.name);
    if (values.shape() != Shape{info.padded}) does_not_fit(path, info.name + " has another length");
    watch.saw(stream, info.name, network.c_str(), values, ObservedRows::parameters);
    return values;
  };
  watch.begin_pass("parameters", 0, capture.facts.batch);
  engine.begin_with(
      [&](int64_t unit, TensorView values) { copy(stream, values, values_of("student", unit)); });
  for (size_t u = 0; u < engine.layout().units().size(); ++u) {
    const auto unit = static_cast<int64_t>(u);
    engine.state().teacher_values().set_unit(stream, unit, values_of("teacher", unit));
  }
  // The step's forward pass had folded the last batch's mean into a centre, and begun the next one: a mean
  // that equals the centre leaves it as it is.
  std::map<std::string, std::vector<double>> state = capture.facts.objective_state;
  for (auto& [name, values] : state)
    if (name.ends_with("_pending")) values = state[name.substr(0, name.size() - 8)];
  if (!state.empty()) engine.set_objective_state(state);
}

StepResult run_step(const Capture& capture, const TrainConfig& config, Engine& engine) {
  const CaptureFacts& facts = capture.facts;
  StepBatch batch;
  batch.images = facts.batch;
  batch.global_crops = capture.global_crops;
  if (config.local_count > 0) batch.local_crops = capture.local_crops;
  batch.masks = capture.masks;
  const DropPathDraw drop_path = drop_path_of(config, {0, facts.batch}, static_cast<uint64_t>(facts.seed),
                                              static_cast<uint64_t>(facts.step - 1));
  return engine.forward_backward(batch, facts.schedule, drop_path);
}

/// What the step had and has, by name.
std::vector<std::pair<std::string, std::array<double, 2>>> compared(const CaptureFacts& facts,
                                                                    const StepResult& result) {
  const LossTerms &a = facts.losses, &b = result.losses;
  std::vector<std::pair<std::string, std::array<double, 2>>> rows{
      {"loss", {a.total, b.total}},
      {"loss_dino_local", {a.dino_local, b.dino_local}},
      {"loss_dino_global", {a.dino_global, b.dino_global}},
      {"loss_ibot", {a.ibot, b.ibot}},
      {"loss_koleo", {a.koleo, b.koleo}}};
  constexpr std::array names{"grad_norm_backbone", "grad_norm_dino_head", "grad_norm_ibot_head"};
  for (size_t i = 0; i < std::min({names.size(), facts.grad_norms.size(), result.grad_norms.size()}); ++i)
    rows.push_back({names[i], {facts.grad_norms[i], result.grad_norms[i]}});
  return rows;
}

std::string result_json(const std::string& path, const Capture& capture, const ModuleWatch& watch,
                        const StepResult& result) {
  const CaptureFacts& facts = capture.facts;
  const auto number = [](double x) {
    return std::isfinite(x) ? nlohmann::ordered_json(x) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json json{{"capture", path},
                              {"kind", facts.kind},
                              {"step", facts.step},
                              {"ranks", facts.ranks},
                              {"strategy", facts.strategy},
                              {"precision", facts.precision},
                              {"cpu", facts.cpu},
                              {"finite", result.finite && !watch.first()}};
  json["first_nonfinite"] = nullptr;
  if (const auto& first = watch.first()) {
    json["first_nonfinite"] = {{"pass", first->pass},   {"module", first->module}, {"tensor", first->tensor},
                               {"place", first->place}, {"value", first->value},   {"image", nullptr},
                               {"key", nullptr}};
    if (first->image >= 0) {
      json["first_nonfinite"]["image"] = first->image;
      json["first_nonfinite"]["key"] = capture.keys[static_cast<size_t>(first->image)];
    }
  }
  for (const auto& [name, values] : compared(facts, result))
    json["values"][name] = {{"captured", number(values[0])}, {"replayed", number(values[1])}};
  json["modules"] = nlohmann::ordered_json::array();
  for (const ModuleStatistics& s : watch.seen())
    json["modules"].push_back({{"pass", s.pass},
                               {"module", s.module},
                               {"tensor", s.tensor},
                               {"min", s.least},
                               {"max", s.most},
                               {"mean_abs", s.mean_absolute()},
                               {"nonfinite", s.not_finite}});
  return json_line(json);
}

void print_result(const Capture& capture, const ModuleWatch& watch, const StepResult& result) {
  const CaptureFacts& facts = capture.facts;
  fmt::print("step {} ({}), {} images, captured from {} ranks ({}, {}, kernels {}; here {})\n", facts.step,
             facts.kind == "outlier" ? "an outlier" : "not finite", facts.batch, facts.ranks, facts.strategy,
             facts.precision, facts.cpu, cpu_level_name(cpu_level()));
  fmt::print("{:<11} {:<20} {:<27} {:>11} {:>11} {:>11}\n", "pass", "module", "tensor", "min", "max",
             "mean |x|");
  for (const ModuleStatistics& s : watch.seen())
    fmt::print("{:<11} {:<20} {:<27} {:>11.4g} {:>11.4g} {:>11.4g}{}\n", s.pass, s.module, s.tensor, s.least,
               s.most, s.mean_absolute(),
               s.not_finite > 0 ? fmt::format("  {} not finite", s.not_finite) : "");
  if (const auto& first = watch.first())
    fmt::print("first value that is not finite: {}: {}, {}: {}{}{}\n", first->pass, first->module,
               first->tensor, first->place, first->place.empty() ? "" : ": ", first->value);
  else
    fmt::print("all values are finite\n");
  for (const auto& [name, values] : compared(facts, result))
    fmt::print("{:<20} {:<14.7g} captured {:.7g}\n", name, values[1], values[0]);
}

void replay_here(const std::string& path, CommandContext& context) {
  const Capture capture = read_capture(path);
  TrainConfig config = settings_of(capture, path);
  check_inputs(capture, config, path);
  const Communicator alone = Communicator::self();
  Workplace place(settle_device(config.device, alone), alone, config.precision);
  Engine engine(make_training_config(config), place.context(), alone);
  ModuleWatch watch(capture, engine.config().vit, engine.layout());
  watch.saw_crops("global", capture.global_crops);
  watch.saw_crops("local", capture.local_crops);
  load_networks(capture, engine, watch, path);
  place.context().observer = &watch;
  const StepResult result = run_step(capture, config, engine);
  context.result = result_json(path, capture, watch, result);
  if (!context.common.json) print_result(capture, watch, result);
}

ExitCode replay(const ReplayConfig& config, CommandContext& context) {
  on_root(context.world, [&] { replay_here(config.capture, context); });
  return ExitCode::done;
}

}  // namespace

Command replay_command() {
  Command command;
  command.name = "replay";
  command.summary = "run a captured step again, module by module";
  command.usage = "RUN/captures/STEP.h5 [--json]";
  command.description =
      "train writes steps that are not finite, and outliers, to RUN/captures. This runs such a step again, "
      "all of its batch on one rank (of several, rank 0 works and the others wait), in micro-batches of the "
      "size that a rank had: images, parameters, every module of teacher, student and losses, then backward. "
      "Prints the least, the largest and the mean absolute value of what each one made, up to the first "
      "value "
      "that is not finite: its module, tensor, token, image and key. Losses and gradient norms stand beside "
      "the captured ones; on other kernels, or from several ranks, they agree to rounding. Whatever it "
      "finds, "
      "it ends with 0; with 65 where the file is damaged or of another version.";
  command.examples = {{"run/captures/step_00001234.h5"}};
  Schema<ReplayConfig> schema;
  schema.add("capture", &ReplayConfig::capture, "A file of RUN/captures.").positional().required();
  command.make = with_options(schema, replay);
  return command;
}

}  // namespace dino::pretrain
