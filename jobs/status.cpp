// SPDX-License-Identifier: Apache-2.0
// The state of a chain. The markers in the run folder are the truth; Slurm only adds what it knows.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <thread>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/signals.hpp"
#include "base/text.hpp"
#include "commands.hpp"
#include "markers.hpp"
#include "queue.hpp"
#include "shell.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

struct StatusConfig {
  std::string run;
  bool watch = false;
  double interval = 5;
};

Schema<StatusConfig> status_options() {
  using C = StatusConfig;
  Schema<C> schema;
  schema.add("run", &C::run, "The run folder of the chain.").positional().required();
  schema.add("watch", &C::watch, "Show it again and again.");
  schema.add("interval", &C::interval, "Seconds between two looks.").range(0.1, 3600);
  return schema;
}

struct StageStatus {
  std::string stage, state, job, detail, log;
  int64_t restarts = 0;
  int exit_code = -1;
  bool started = false;    ///< by the last submission
  bool cancelled = false;  ///< before it could start
  bool on_hold = false;    ///< until somebody submits again
};

/// Job numbers grow: a smaller one is of an earlier submission.
bool is_earlier(const std::string& job, const std::string& than) {
  return job.size() != than.size() ? job.size() < than.size() : job < than;
}

/// RUN/logs/<stage>-<job>.log, or RUN/logs/<stage>.log of a local run.
std::string log_of(const std::string& run, const std::string& stage, const std::string& job) {
  const std::string path = job.empty() ? fmt::format("{}/logs/{}.log", run, stage)
                                       : fmt::format("{}/logs/{}-{}.log", run, stage, job);
  return path_exists(path) ? path : "";
}

/// One look at a chain: the markers in the run folder are the truth; of the rest Slurm is asked once.
class Look {
 public:
  explicit Look(const std::string& run) : state_(read_state(run)) {
    std::vector<std::string> names;
    for (const ChainState::Entry& entry : state_.stages) {
      if (!entry.name.empty() && !is_done(run, entry.stage)) names.push_back(entry.name);
    }
    queue_ = ask_queue(names);
    for (const ChainState::Entry& entry : state_.stages) stages_.push_back(look_at(entry));
    ask_for_the_lost();
    tell_cancelled();
  }

  [[nodiscard]] const ChainState& state() const { return state_; }
  [[nodiscard]] const std::vector<StageStatus>& stages() const { return stages_; }

 private:
  /// Is the marker of what was submitted or started last, and not of an earlier try? Without two job numbers
  /// the times tell.
  [[nodiscard]] bool is_current(const Marker& marker, const ChainState::Entry& entry) const {
    if (marker.job > 0 && !entry.job.empty()) return !is_earlier(std::to_string(marker.job), entry.job);
    const bool has_time = marker.time.size() == state_.submitted.size() && marker.time.starts_with("2");
    return has_time && marker.time >= state_.submitted;
  }

  [[nodiscard]] std::optional<Marker> current(const ChainState::Entry& entry, const char* file) const {
    std::optional<Marker> marker = read_marker(state_.run, entry.stage, file);
    if (marker && !is_current(*marker, entry)) marker.reset();
    return marker;
  }

  StageStatus look_at(const ChainState::Entry& entry) {
    StageStatus status;
    status.stage = entry.stage;
    status.job = entry.job;
    const std::optional<Marker> started = current(entry, "started.json");
    std::optional<Marker> failed = current(entry, "failed.json");
    if (started && failed && started->job == failed->job && failed->restarts < started->restarts)
      failed.reset();
    const auto tell = [&](const Marker& marker) {
      status.restarts = marker.restarts;
      status.detail = marker.time;
      if (marker.job > 0) status.job = std::to_string(marker.job);
    };
    if (started) tell(*started);
    status.started = started.has_value();
    if (is_done(state_.run, entry.stage)) {
      tell(*read_marker(state_.run, entry.stage, "done.json"));
      status.state = "done";
      status.exit_code = 0;
    } else if (const std::optional<QueuedJob> job = live_job(entry)) {
      tell_queued(status, *job);
    } else if (failed) {
      tell(*failed);
      const bool asked = failed->job == 0 && failed->exit_code == static_cast<int>(ExitCode::stopped);
      status.state = asked ? "stopped" : "failed";
      status.exit_code = static_cast<int>(failed->exit_code);
    } else if (entry.name.empty() && entry.job.empty()) {
      if (started && (FolderLock::is_held(state_.run + "/slurm") ||
                      is_stage_running(stage_lock(state_.run, entry.stage)))) {
        status.state = "running";
      } else if (started) {
        status.state = "stopped";
        status.detail = "its dino-jobs local is gone; run it again";
      } else {
        status.state = "not started";
      }
    } else if (status.job.empty()) {
      status.state = "not submitted";
      status.detail = "the submission was cut short; submit again";
      status.on_hold = true;
    } else {
      tell_ended(status, entry);
    }
    if (status.state != "done" && has_broken_done(state_.run, entry.stage))
      status.detail += (status.detail.empty() ? "" : "; ") + std::string("its done.json is not valid");
    status.log = log_of(state_.run, entry.stage, status.job);
    return status;
  }

  [[nodiscard]] std::optional<QueuedJob> live_job(const ChainState::Entry& entry) const {
    std::optional<QueuedJob> last;
    for (const QueuedJob& job : queue_.jobs) {
      if (job.name == entry.name && is_live(job) && (!last || is_earlier(last->id, job.id))) last = job;
    }
    return last;
  }

  void tell_queued(StageStatus& status, const QueuedJob& job) const {
    status.job = job.id;
    status.state = job.state == "RUNNING" || job.state == "COMPLETING" ? "running" : "waiting";
    if (!job.reason.empty()) status.detail = job.reason;
    if (!state_.released && job.state == "PENDING") {
      status.detail = "on hold, the submission was cut short; submit again";
      status.on_hold = true;
    }
  }

  /// Slurm no longer has the job, and it has not said how it ended: time limit, memory, a lost node,
  /// cancelled.
  void tell_ended(StageStatus& status, const ChainState::Entry& entry) {
    if (!queue_.answered) {
      status.state = "unknown";
      status.detail = queue_.why;
      return;
    }
    const QueuedJob* last = nullptr;
    for (const QueuedJob& job : queue_.jobs) {
      if (job.name == entry.name && !is_earlier(job.id, status.job) &&
          (last == nullptr || is_earlier(last->id, job.id)))
        last = &job;
    }
    if (last == nullptr) {
      lost_.push_back(stages_.size());
      return;
    }
    status.job = last->id;
    tell_end(status, last->state);
  }

  static void tell_end(StageStatus& status, const std::string& slurm_state) {
    status.state = "failed";
    status.detail = slurm_state.empty()
                        ? fmt::format("job {} is no longer in the queue, and left no word", status.job)
                    : slurm_state == "COMPLETED" ? "COMPLETED, but left no valid done.json"
                                                 : slurm_state;
    status.cancelled = !status.started && (slurm_state.empty() || slurm_state == "CANCELLED");
  }

  /// Slurm cancels what waits for a stage that failed.
  void tell_cancelled() {
    const StageStatus* failed = nullptr;
    for (StageStatus& status : stages_) {
      if (failed != nullptr && status.cancelled) {
        status.state = "not started";
        status.detail = fmt::format("cancelled, because {} failed", failed->stage);
      } else if (failed == nullptr && status.state == "failed") {
        failed = &status;
      }
    }
  }

  /// Jobs that squeue has forgotten: accounting may know them; and those of an earlier version have other
  /// names.
  void ask_for_the_lost() {
    std::vector<std::string> jobs;
    for (const size_t i : lost_) jobs.push_back(stages_[i].job);
    const std::map<std::string, std::string> accounts = ask_accounts(jobs);
    for (const size_t i : lost_) {
      StageStatus& status = stages_[i];
      if (const auto it = accounts.find(status.job);
          it != accounts.end() && !is_live({"", it->second, "", ""})) {
        tell_end(status, it->second);
        continue;
      }
      const QueueAnswer answer = ask_queue_for(status.job);
      if (!answer.answered) {
        status.state = "unknown";
        status.detail = answer.why;
      } else if (answer.jobs.empty()) {
        tell_end(status, "");
      } else if (is_live(answer.jobs.front())) {
        tell_queued(status, answer.jobs.front());
      } else {
        tell_end(status, answer.jobs.front().state);
      }
    }
  }

  ChainState state_;
  QueueAnswer queue_;
  std::vector<StageStatus> stages_;
  std::vector<size_t> lost_;  ///< of stages_
};

std::string table(const Look& look) {
  const ChainState& state = look.state();
  std::string text = fmt::format("chain {} in {}\n{:<16} {:<12} {:>8} {:>8} {:>5}  {}\n", state.name,
                                 state.run, "stage", "state", "job", "restarts", "code", "detail");
  for (const StageStatus& s : look.stages()) {
    std::string line = fmt::format("{:<16} {:<12} {:>8} {:>8} {:>5}  {}", s.stage, s.state, s.job, s.restarts,
                                   s.exit_code < 0 ? "" : std::to_string(s.exit_code), s.detail);
    while (line.ends_with(' ')) line.pop_back();
    text += line + "\n";
    if (s.state == "failed" && !s.log.empty()) text += fmt::format("{:<16} see {}\n", "", s.log);
  }
  return text;
}

std::string json_text(const Look& look) {
  const ChainState& state = look.state();
  nlohmann::ordered_json json = {{"name", state.name}, {"run", state.run}, {"submitted", state.submitted}};
  json["stages"] = nlohmann::ordered_json::array();
  for (const StageStatus& s : look.stages()) {
    nlohmann::ordered_json one = {
        {"stage", s.stage}, {"state", s.state}, {"job", s.job}, {"restarts", s.restarts}};
    one["exit_code"] =
        s.exit_code < 0 ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(s.exit_code);
    one["detail"] = s.detail;
    one["log"] = s.log;
    json["stages"].push_back(one);
  }
  return json_line(json);
}

/// Does the chain go on by itself?
ExitCode verdict_on(const std::vector<StageStatus>& stages) {
  const auto any = [&](auto&& is) { return std::any_of(stages.begin(), stages.end(), is); };
  if (any([](const StageStatus& s) { return s.state == "failed"; })) return ExitCode::upstream;
  if (any([](const StageStatus& s) { return s.state == "unknown"; })) return ExitCode::io;
  if (any([](const StageStatus& s) { return s.state == "stopped" || s.on_hold; })) return ExitCode::stopped;
  return ExitCode::done;
}

ExitCode show_status(const StatusConfig& config, CommandContext& context) {
  std::string run = std::filesystem::absolute(config.run).lexically_normal().string();
  while (run.size() > 1 && run.back() == '/') run.pop_back();
  while (true) {
    const Look look(run);
    if (config.watch && ::isatty(STDOUT_FILENO) != 0) std::fputs("\033[H\033[2J", stdout);
    // Watched, every look is a line of its own; the last one is the result.
    if (!context.common.json) std::fputs(table(look).c_str(), stdout);
    context.result = json_text(look);
    const ExitCode verdict = verdict_on(look.stages());
    const bool done = std::all_of(look.stages().begin(), look.stages().end(),
                                  [](const StageStatus& s) { return s.state == "done"; });
    if (!config.watch || done || verdict == ExitCode::upstream) return verdict;
    if (context.common.json) fmt::print("{}\n", context.result);
    std::fflush(stdout);
    for (double waited = 0; waited < config.interval; waited += 0.1) {
      if (stop_requested()) return verdict;
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
      "A stage is done when RUN/<stage>/done.json says so. Slurm is asked once for what it knows of the "
      "other ones; "
      "without Slurm, or after it has forgotten a job, the markers in the run folder tell. With --watch the "
      "table is "
      "shown again until all stages are done or one has failed.\n\n"
      "States: done, running, waiting (in the queue), not started, not submitted, stopped, failed, and "
      "unknown when "
      "Slurm does not answer. The exit code is 0 while the chain is done or goes on by itself, 77 when a "
      "stage has "
      "failed or its job is gone, 74 when Slurm does not answer, and 75 when the chain was stopped or its "
      "submission "
      "was cut short: submit it, or run it, again.";
  command.uses_mpi = false;
  command.examples = {{"demo/run"}, {"demo/run --watch --interval 60", "Look again every minute."}};
  command.make = with_options(status_options(), show_status);
  return command;
}

}  // namespace dino
