// SPDX-License-Identifier: Apache-2.0
#include "run_log.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <map>
#include <set>
#include <span>
#include <sstream>

#include "base/cpu.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/machine.hpp"
#include "base/text.hpp"
#include "base/timing.hpp"
#include "base/version.hpp"
#include "training/checkpoint.hpp"
#include "training/collapse.hpp"

namespace dino::pretrain {
namespace {

void read_replaced(const OrderedJson& json, Replaced& replaced) {
  if (json.contains("replaced_samples") && json["replaced_samples"].is_number_integer())
    replaced.samples = json["replaced_samples"].get<int64_t>();
  if (!json.contains("replaced_by_cause") || !json["replaced_by_cause"].is_object()) return;
  for (size_t i = 0; i < replaced.by_cause.size(); ++i)
    replaced.by_cause[i] = json["replaced_by_cause"].value(cause_name(i), int64_t{0});
}

OrderedJson causes_object(const ReplacedCounts& counts) {
  OrderedJson json = OrderedJson::object();
  for (size_t i = 0; i < counts.size(); ++i)
    if (counts[i] > 0) json[cause_name(i)] = counts[i];
  return json;
}

/// Drops the lines of steps above `step`; a line that is not JSON (cut by a kill) goes too.
void drop_lines_after(const std::string& path, int64_t step, Replaced& replaced) {
  if (!path_exists(path)) return;
  std::istringstream lines(read_text(path));
  std::string kept, line;
  bool changed = false;
  while (std::getline(lines, line)) {
    const OrderedJson json = OrderedJson::parse(line, nullptr, false);
    const bool has_step = json.is_object() && json.contains("step") && json["step"].is_number_integer();
    if (!json.is_object() || (has_step && json["step"].get<int64_t>() > step)) {
      changed = true;
    } else {
      kept += line + "\n";
      read_replaced(json, replaced);
    }
  }
  if (changed) write_file_atomically(path, kept);
}

const std::string& prepare(const std::string& path, int64_t step, Replaced& replaced) {
  drop_lines_after(path, step, replaced);
  return path;
}

OrderedJson number(double value) {
  return std::isfinite(value) ? OrderedJson(value) : OrderedJson(nullptr);
}

std::map<std::string, std::string> settings_of(const std::string& ini, const std::string& source) {
  std::map<std::string, std::string> settings;
  for (const IniLine& line : read_ini(ini, source)) settings[line.key] = line.value;
  return settings;
}

/// Settings that may change between the starts of one run: they do not enter the result. Of the data the
/// images themselves are compared (check_data), not the place where they lie.
const std::set<std::string>& free_settings() {
  static const std::set<std::string> names = {
      "config",           "output",         "threads",       "dry-run",
      "print-config",     "progress",       "json",          "resume",
      "checkpoint-every", "keep",           "keep-every",    "log-every",
      "max-seconds",      "stop-after",     "workers",       "prefetch",
      "cache-gib",        "knn-train",      "knn-test",      "knn-every",
      "knn-limit",        "knn-test-limit", "knn-k",         "max-skips",
      "watchdog-seconds", "data",           "retry-seconds", "max-replaced",
      "weights",          "which",          "minutes",       "strategy",
      "device",           "shard-group",    "accumulate",    "recompute",
      "outlier-z",        "captures",       "trace",         "targets-gib"};
  return names;
}

struct Changed {
  std::string name, before, now;
};

/// Settings that shape the result and are not what they were.
std::vector<Changed> changed_settings(const std::string& before, const std::string& source,
                                      const std::string& ini) {
  std::vector<Changed> changed;
  const auto old = settings_of(before, source);
  for (const auto& [name, value] : settings_of(ini, source)) {
    const auto it = old.find(name);
    if (!free_settings().contains(name) && it != old.end() && it->second != value)
      changed.push_back({name, it->second, value});
  }
  return changed;
}

/// RUN/run.json, or an empty object where there is none that can be read.
OrderedJson read_run_json(const std::string& run) {
  const std::string path = run + "/run.json";
  if (!path_exists(path)) return OrderedJson::object();
  OrderedJson json = OrderedJson::parse(read_text(path), nullptr, false);
  return json.is_object() ? json : OrderedJson::object();
}

/// Of the images' names in their order, and of their sizes where the listing knows them.
std::string data_hash(const RecordList& list) {
  return fmt::format("{:016x}", list.hash());
}

}  // namespace

RunLog::RunLog(const std::string& run, int64_t step)
    : path_(run + "/metrics.jsonl"), writer_(prepare(path_, step, replaced_before_)) {}

void RunLog::append(const std::string& line) {
  try {
    if (lost_ > 0) {
      writer_.write(json_line({{"event", "lines_lost"}, {"time", utc_now()}, {"lines", lost_}}));
      lost_ = 0;
    }
    writer_.write(line);
  } catch (const IoError& error) {
    if (lost_++ == 0)
      log::warning(
          fmt::format("{}; the training goes on without these lines; free some space", error.what()));
  }
}

void RunLog::step(const StepLine& line) {
  const LossTerms& losses = line.result.losses;
  const StepHealth& health = line.result.health;
  OrderedJson json;
  json["step"] = line.step;
  json["samples"] = line.samples;
  json["loss"] = number(losses.total);
  json["loss_dino_local"] = number(losses.dino_local);
  json["loss_dino_global"] = number(losses.dino_global);
  json["loss_ibot"] = number(losses.ibot);
  json["loss_koleo"] = number(losses.koleo);
  json["lr"] = line.schedule.lr;
  json["weight_decay"] = line.schedule.weight_decay;
  json["momentum"] = line.schedule.momentum;
  json["teacher_temperature"] = line.schedule.teacher_temperature;
  json["grad_norm"] = number(line.result.grad_norm());
  json["loss_scale"] = line.result.loss_scale;
  json["grad_norm_backbone"] = number(line.result.grad_norms[0]);
  json["grad_norm_dino_head"] = number(line.result.grad_norms[1]);
  json["grad_norm_ibot_head"] = number(line.result.grad_norms[2]);
  json["teacher_entropy"] = number(health.teacher_entropy);
  json["information"] = number(health.information);
  json["kl"] = number(health.kl);
  json["prototype_usage"] = number(health.prototype_usage);
  json["feature_std"] = number(health.feature_std);
  json["effective_rank"] = number(health.effective_rank);
  json["images_per_second"] = line.images_per_second;
  json["achieved_gflops"] = line.achieved_gflops;
  json["mfu"] = line.mfu;
  json["step_seconds"] = line.step_seconds;
  json["data_wait_seconds"] = line.data_wait_seconds;
  json["compute_seconds"] = line.compute_seconds;
  json["communication_seconds"] = line.communication_seconds;
  json["checkpoint_blocked_seconds"] = line.checkpoint_blocked_seconds;
  json["phases"] = line.phases;
  json["collectives"] = OrderedJson::object();
  for (const auto& [name, use] : line.collectives)
    json["collectives"][name] = {
        {"count", use.count}, {"bytes", use.bytes}, {"wait_seconds", use.wait_seconds}};
  json["replaced_samples"] = line.replaced.samples;
  json["replaced_by_cause"] = causes_object(line.replaced.by_cause);
  json["batch_crc"] = line.batch_crc;
  append(json_line(json));
}

void RunLog::start(const TrainConfig& config, const CommandContext& context, const Beginning& beginning) {
  OrderedJson json;
  json["event"] = "start";
  json["step"] = 0;
  json["time"] = utc_now();
  json["version"] = version();
  json["commit"] = commit();
  json["ranks"] = context.world.size();
  json["cpu"] = cpu_level_name(cpu_level());
  json["preset"] = config.preset.value();
  json["batch"] = config.batch.value();
  json["steps"] = config.steps.value();
  json["warmup"] = config.warmup.of(config.steps);
  json["width"] = make_training_config(config).vit.width;
  json["prototypes"] = config.prototypes.value();
  json["ln_k"] = std::log(static_cast<double>(config.prototypes.value()));
  json["ibot_prototypes"] = config.ibot_prototypes > 0 ? config.ibot_prototypes : config.prototypes.value();
  json["local_crops"] = config.local_count.value();
  json["records"] = beginning.records;
  json["parameters"] = beginning.parameters;
  json["gemm_gflops"] = beginning.gemm_gflops;
  if (const Forecast* forecast = beginning.forecast; forecast != nullptr) {
    json["bytes"] = bytes_object(forecast->memory);
    json["bytes_max"] = forecast->memory.total();
    json["expected_seconds"] = forecast->seconds;
    json["expected_step_seconds"] = forecast->step_seconds;
  }
  json["config"] = context.config_ini;
  writer_.write(json_line(json));
}

void RunLog::resume(int64_t step, const std::string& checkpoint, int ranks, double gemm_gflops) {
  writer_.write(json_line({{"event", "resume"},
                           {"step", step},
                           {"time", utc_now()},
                           {"checkpoint", checkpoint},
                           {"ranks", ranks},
                           {"gemm_gflops", gemm_gflops}}));
}

void RunLog::checkpoint(int64_t step, const std::string& folder, double seconds, double blocked_seconds) {
  append(json_line({{"event", "checkpoint"},
                    {"step", step},
                    {"checkpoint", folder},
                    {"seconds", seconds},
                    {"blocked_seconds", blocked_seconds}}));
}

void RunLog::checkpoint_failed(int64_t step, const std::string& why) {
  append(json_line({{"event", "checkpoint_failed"}, {"step", step}, {"time", utc_now()}, {"why", why}}));
}

void RunLog::skip(int64_t step, const StepResult& result) {
  append(json_line({{"event", "skip"},
                    {"step", step},
                    {"loss", number(result.losses.total)},
                    {"grad_norm_backbone", number(result.grad_norms[0])}}));
}

void RunLog::outlier(int64_t step, const Outlier& outlier, bool skipped) {
  append(json_line({{"event", "outlier"},
                    {"step", step},
                    {"quantity", outlier.quantity},
                    {"value", outlier.value},
                    {"mean", outlier.mean},
                    {"z", outlier.z},
                    {"skipped", skipped}}));
}

void RunLog::capture(int64_t step, const std::string& file, double seconds) {
  append(json_line({{"event", "capture"}, {"step", step}, {"file", file}, {"seconds", seconds}}));
}

void RunLog::loss_scale(int64_t step, double scale) {
  append(json_line({{"event", "loss_scale"}, {"step", step}, {"loss_scale", scale}}));
}

void RunLog::rollback(int64_t step, const std::string& checkpoint) {
  append(json_line({{"event", "rollback"}, {"step", step}, {"checkpoint", checkpoint}}));
}

void RunLog::knn(int64_t step, const OnlineKnn::Score& score, int64_t k, bool is_best) {
  append(json_line({{"event", "knn"},
                    {"step", step},
                    {"accuracy", score.cls},
                    {"accuracy_patches", score.patches},
                    {"accuracy_all", score.all},
                    {"n", score.n},
                    {"k", k},
                    {"best", is_best}}));
}

void RunLog::stop(int64_t step, const std::string& reason) {
  OrderedJson json{{"event", "stop"},
                   {"step", step},
                   {"time", utc_now()},
                   {"reason", reason},
                   {"peak_rss_bytes", peak_rss_bytes()}};
  if (reason == "done") {
    const CollapseVerdict verdict = judge_collapse(read_health_history(path_, static_cast<double>(step)));
    const std::string text = fmt::format("health: {}: {}", verdict.title, verdict.why);
    if (verdict.level == CollapseVerdict::Level::problem)
      log::warning(text);
    else
      log::info(text);
    json["health"] = verdict.title;
  }
  append(json_line(json));
}

void check_or_write_config(const std::string& run, const std::string& ini) {
  const std::string path = run + "/config.ini";
  if (path_exists(path)) {
    for (const Changed& setting : changed_settings(read_text(path), path, ini))
      throw UsageError(
          fmt::format("cannot go on with other settings: --{}: the run in {} has {}, now {}; use the same "
                      "value, or another --output",
                      setting.name, run, setting.before, setting.now));
  }
  write_file_atomically(path, ini);
}

void say_other_settings(const std::string& checkpoint, const std::string& before, const std::string& ini) {
  std::string text;
  for (const Changed& setting : changed_settings(before, checkpoint, ini))
    text += fmt::format("{}--{} {} (was {})", text.empty() ? "" : ", ", setting.name, setting.now,
                        setting.before);
  if (!text.empty())
    log::warning(
        fmt::format("goes on from {} with other settings than it was made with: {}", checkpoint, text));
}

std::string list_path(const std::string& run) {
  return run + "/images.index";
}

void check_data(const std::string& run, const RecordList& list) {
  const OrderedJson data = read_run_json(run).value("data", OrderedJson::object());
  if (!data.contains("hash")) return;
  if (data["hash"] == data_hash(list)) {
    if (data.value("reference", "") != list.reference())
      log::info(fmt::format("the run's images are now read from {}", list.reference()));
    return;
  }
  throw DataError(fmt::format(
      "data changed: --data {}: the run in {} began with {} images, these are {}, or their names or sizes "
      "differ; give the same images, or another --output",
      list.reference(), run, data.value("records", int64_t{0}), list.count()));
}

void refuse_lost_checkpoints(const std::string& run) {
  const std::string advice =
      "copy one back from elsewhere, or begin anew with --resume none in an --output without checkpoints";
  if (const auto damaged = list_checkpoints(run); !damaged.empty())
    throw DataError(
        fmt::format("no valid checkpoint: {}/checkpoints: all {} are damaged (see the warnings); {}", run,
                    damaged.size(), advice));
  const std::string path = run + "/metrics.jsonl";
  if (!path_exists(path)) return;
  std::istringstream lines(read_text(path));
  std::string line;
  while (std::getline(lines, line)) {
    const OrderedJson json = OrderedJson::parse(line, nullptr, false);
    if (!json.is_object() || json.value("event", "") != "checkpoint") continue;
    throw DataError(
        fmt::format("no valid checkpoint: {}/checkpoints: there is none, yet {} says that one was "
                    "written at step {}; {}",
                    run, path, json.value("step", int64_t{0}), advice));
  }
}

namespace {

/// What decides the last bits of a training. A start that changes any of it goes on with the same samples and
/// to rounding, and says so.
void say_what_changed(const OrderedJson& before, const OrderedJson& now) {
  std::string changed;
  for (const char* name :
       {"ranks", "device", "cpu", "precision", "reduce_precision", "strategy", "accumulate", "recompute"}) {
    if (!before.contains(name) || before[name] == now[name]) continue;
    changed += fmt::format("{}{} {} (was {})", changed.empty() ? "" : ", ", name, json_line(now[name]),
                           json_line(before[name]));
  }
  if (!changed.empty())
    log::info("goes on with the same samples, and to rounding with the same results: " + changed);
}

}  // namespace

void write_run_json(const std::string& run, const CommandContext& context, const RecordList& list,
                    const TrainingConfig& training, Device::Kind device, int64_t start_step) {
  OrderedJson json = read_run_json(run);
  json["data"] = {{"reference", list.reference()}, {"records", list.count()}, {"hash", data_hash(list)}};
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  OrderedJson start;
  start["time"] = utc_now();
  start["host"] = host.data();
  start["ranks"] = context.world.size();
  start["device"] = name_of(device);
  start["cpu"] = cpu_level_name(cpu_level());
  start["cpu_model"] = cpu_model();
  start["precision"] = name_of(training.precision);
  start["reduce_precision"] = name_of(training.reduce_precision);
  start["strategy"] = name_of(training.split.strategy);
  start["accumulate"] = training.split.accumulate;
  start["recompute"] = name_of(training.split.recompute);
  start["cores"] = cpu_cores();
  start["from_step"] = start_step;
  start["argv"] = context.argv;
  start["version"] = version();
  start["commit"] = commit();
  for (const char* name : {"SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_RESTART_COUNT"}) {
    if (const char* value = std::getenv(name); value != nullptr) start[name] = value;
  }
  if (!json["starts"].is_array()) json["starts"] = OrderedJson::array();
  if (start_step > 0 && !json["starts"].empty()) say_what_changed(json["starts"].back(), start);
  json["starts"].push_back(start);
  write_file_atomically(run + "/run.json", json_text(json, 2) + "\n");
}

}  // namespace dino::pretrain
