// SPDX-License-Identifier: Apache-2.0
// The state of a chain. The markers in the run folder are the truth; Slurm only adds what it knows.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/signals.hpp"
#include "base/text.hpp"
#include "commands.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

struct StatusConfig {
  std::string run;
  bool watch = false;
  double interval = 5;
};

struct StageStatus {
  std::string stage, state, job, detail, log;
  int64_t restarts = 0;
  int exit_code = -1;
};

/// A marker file, or an empty object where it is missing or half gone.
nlohmann::json marker(const std::string& run, const std::string& stage, const char* file) {
  const std::string path = fmt::format("{}/{}/{}", run, stage, file);
  if (!path_exists(path)) return nlohmann::json::object();
  nlohmann::json json = nlohmann::json::parse(read_text(path), nullptr, false);
  return json.is_object() ? json : nlohmann::json::object();
}

/// The newest log of a stage: RUN/logs/<stage>.log or RUN/logs/<stage>-<job>.log.
std::string newest_log(const std::string& run, const std::string& stage) {
  std::string newest;
  std::filesystem::file_time_type time{};
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run + "/logs", error)) {
    const std::string name = entry.path().filename().string();
    const bool mine =
        name == stage + ".log" || (name.starts_with(stage + "-") && name.ends_with(".log") &&
                                   name.find_first_not_of("0123456789", stage.size() + 1) == name.size() - 4);
    if (!mine || (!newest.empty() && entry.last_write_time(error) <= time)) continue;
    newest = entry.path().string();
    time = entry.last_write_time(error);
  }
  return newest;
}

StageStatus status_of(const std::string& run, const ChainState::Entry& entry) {
  StageStatus status;
  status.stage = entry.stage;
  status.log = newest_log(run, entry.stage);
  const nlohmann::json done = marker(run, entry.stage, "done.json");
  const nlohmann::json failed = marker(run, entry.stage, "failed.json");
  const nlohmann::json started = marker(run, entry.stage, "started.json");
  const nlohmann::json& last = !done.empty() ? done : !failed.empty() ? failed : started;
  // A stage that submitted itself anew runs under another job id than the one of chain.json.
  const int64_t job = last.value("job", int64_t{0});
  status.job = job > 0 ? std::to_string(job) : entry.job;
  status.restarts = last.value("restarts", int64_t{0});
  status.detail = last.value("time", "");
  if (is_done(run, entry.stage)) {
    status.state = "done";
    status.exit_code = 0;
    return status;
  }
  const JobHint hint = ask_slurm(entry.job.empty() ? "" : status.job);
  if (is_live(hint)) {
    status.state = hint.state == "RUNNING" ? "running" : "waiting";
    status.detail = hint.reason.empty() ? status.detail : hint.reason;
  } else if (!failed.empty()) {
    status.state = "failed";
    status.exit_code = failed.value("exit_code", -1);
  } else if (!hint.state.empty()) {
    // Slurm has ended it before the script could say so: time limit, memory, a lost node, cancelled.
    status.state = "failed";
    status.detail = hint.state;
  } else {
    status.state = started.empty() ? "not started" : "started";
  }
  return status;
}

std::string table(const ChainState& state, const std::vector<StageStatus>& stages) {
  std::string text = fmt::format("chain {} in {}\n{:<16} {:<12} {:>8} {:>8} {:>5}  {}\n", state.name,
                                 state.run, "stage", "state", "job", "restarts", "code", "detail");
  for (const StageStatus& s : stages) {
    std::string line = fmt::format("{:<16} {:<12} {:>8} {:>8} {:>5}  {}", s.stage, s.state, s.job, s.restarts,
                                   s.exit_code < 0 ? "" : std::to_string(s.exit_code), s.detail);
    while (line.ends_with(' ')) line.pop_back();
    text += line + "\n";
    if (s.state == "failed" && !s.log.empty()) text += fmt::format("{:<16} see {}\n", "", s.log);
  }
  return text;
}

std::string json_text(const ChainState& state, const std::vector<StageStatus>& stages) {
  nlohmann::ordered_json json = {{"name", state.name}, {"run", state.run}, {"submitted", state.submitted}};
  json["stages"] = nlohmann::ordered_json::array();
  for (const StageStatus& s : stages) {
    nlohmann::ordered_json one = {
        {"stage", s.stage}, {"state", s.state}, {"job", s.job}, {"restarts", s.restarts}};
    one["exit_code"] =
        s.exit_code < 0 ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(s.exit_code);
    one["detail"] = s.detail;
    one["log"] = s.log;
    json["stages"].push_back(one);
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

ExitCode show_status(const StatusConfig& config, const CommandContext& context) {
  std::string run = std::filesystem::absolute(config.run).lexically_normal().string();
  while (run.size() > 1 && run.back() == '/') run.pop_back();
  while (true) {
    const ChainState state = read_state(run);
    std::vector<StageStatus> stages;
    for (const ChainState::Entry& entry : state.stages) stages.push_back(status_of(run, entry));
    if (config.watch && ::isatty(STDOUT_FILENO) != 0) std::fputs("\033[H\033[2J", stdout);
    std::fputs((context.common.json ? json_text(state, stages) : table(state, stages)).c_str(), stdout);
    std::fflush(stdout);
    const bool over =
        std::all_of(stages.begin(), stages.end(), [](const StageStatus& s) { return s.state == "done"; }) ||
        std::any_of(stages.begin(), stages.end(), [](const StageStatus& s) { return s.state == "failed"; });
    if (!config.watch || over) return ExitCode::done;
    for (double waited = 0; waited < config.interval; waited += 0.1) {
      if (stop_requested()) return ExitCode::done;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}

}  // namespace

Command status_command() {
  Command command;
  command.name = "status";
  command.summary = "show every stage of a chain: state, job, restarts, exit code, log";
  command.usage = "RUN";
  command.description =
      "A stage is done when RUN/<stage>/done.json is there. Slurm is asked for what it knows of the other "
      "ones; without "
      "Slurm, or after it has forgotten a job, the markers in the run folder tell. With --watch the table is "
      "shown again "
      "until all stages are done or one has failed.";
  command.uses_mpi = false;
  command.make = [](OptionTable& options) -> std::function<ExitCode(CommandContext&)> {
    auto config = std::make_shared<StatusConfig>();
    options.add("run", &config->run, "The run folder of the chain.").positional().required();
    options.add("watch", &config->watch, "Show it again and again.");
    options.add("interval", &config->interval, "Seconds between two looks.").range(0.1, 3600);
    return [config](CommandContext& context) { return show_status(*config, context); };
  };
  return command;
}

}  // namespace dino
