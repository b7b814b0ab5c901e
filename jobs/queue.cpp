// SPDX-License-Identifier: Apache-2.0
#include "queue.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "base/error.hpp"
#include "base/text.hpp"
#include "markers.hpp"
#include "shell.hpp"

namespace dino {
namespace {

constexpr double kQuerySeconds = 20;

/// Lines of a tool as one.
std::string in_one_line(const std::string& text) {
  return fmt::format("{}", fmt::join(split(trim(text), '\n'), "; "));
}

QueueAnswer answer_of(const ShellResult& result) {
  QueueAnswer answer;
  answer.installed = result.code != 127;
  const std::string words = in_one_line(result.err);
  // A job that is long over: for one number, that is an error of squeue.
  if (result.code != 0 && words.find("Invalid job id") != std::string::npos) return answer;
  const bool complains = trim(result.out).empty() && words.find("error") != std::string::npos;
  answer.answered = result.code == 0 && !complains;
  if (!answer.answered) {
    answer.why = result.code == 127   ? "squeue: not found"
                 : result.code == 124 ? "squeue: no answer in time"
                 : words.empty()      ? fmt::format("squeue: exit code {}", result.code)
                                      : words;
  }
  return answer;
}

std::string plain_reason(const std::string& reason) {
  return reason == "None" ? "" : reason;
}

}  // namespace

double slurm_seconds(double otherwise) {
  const char* text = std::getenv("DINO_SLURM_TIMEOUT");
  const double seconds = text == nullptr ? 0 : std::atof(text);
  return seconds > 0 ? seconds : otherwise;
}

bool is_live(const QueuedJob& job) {
  constexpr const char* kLive[] = {"PENDING",   "RUNNING",      "CONFIGURING", "COMPLETING",   "SUSPENDED",
                                   "REQUEUED",  "REQUEUE_HOLD", "REQUEUE_FED", "STOPPED",      "RESIZING",
                                   "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT",   "RESV_DEL_HOLD"};
  return std::any_of(std::begin(kLive), std::end(kLive),
                     [&](const char* state) { return job.state == state; });
}

QueueAnswer ask_queue(const std::vector<std::string>& names) {
  if (names.empty()) return {};
  const ShellResult result = run_tool({"squeue", "-a", "-h", "-t", "all",
                                       fmt::format("--name={}", fmt::join(names, ",")), "-o", "%i|%T|%r|%j"},
                                      slurm_seconds(kQuerySeconds));
  QueueAnswer answer = answer_of(result);
  if (!answer.answered) return answer;
  for (const std::string& line : split(result.out, '\n')) {
    const std::vector<std::string> fields = split(trim(line), '|');
    if (fields.size() < 4 || std::find(names.begin(), names.end(), fields.back()) == names.end()) continue;
    answer.jobs.push_back({fields[0], fields[1], plain_reason(fields[2]), fields.back()});
  }
  return answer;
}

QueueAnswer ask_queue_for(const std::string& job) {
  const ShellResult result =
      run_tool({"squeue", "-a", "-h", "-j", job, "-o", "%T %r"}, slurm_seconds(kQuerySeconds));
  QueueAnswer answer = answer_of(result);
  const std::string line = trim(split(result.out, '\n').front());
  if (!answer.answered || line.empty()) return answer;
  const size_t space = line.find(' ');
  answer.jobs.push_back({job, line.substr(0, space),
                         space == std::string::npos ? "" : plain_reason(trim(line.substr(space))), ""});
  return answer;
}

std::map<std::string, std::string> ask_accounts(const std::vector<std::string>& jobs) {
  if (jobs.empty()) return {};
  const ShellResult result = run_tool(
      {"sacct", "-n", "-X", "-P", "-j", fmt::format("{}", fmt::join(jobs, ",")), "-o", "JobID,State"},
      slurm_seconds(kQuerySeconds));
  if (result.code != 0) return {};
  std::map<std::string, std::string> states;
  for (const std::string& line : split(result.out, '\n')) {
    const std::vector<std::string> fields = split(trim(line), '|');
    if (fields.size() == 2) states[fields[0]] = split(fields[1], ' ').front();  // "CANCELLED by 0"
  }
  return states;
}

StageJobs live_jobs(const ChainState& known, const std::map<std::string, std::string>& names) {
  std::map<std::string, std::string> stage_of;  // job name -> stage
  std::map<std::string, std::set<std::string>> numbers;
  for (const auto& [stage, name] : names) {
    if (!is_done(known.run, stage)) stage_of[name] = stage;
  }
  for (const ChainState::Entry& entry : known.stages) {
    if (is_done(known.run, entry.stage)) continue;
    if (!entry.name.empty()) stage_of[entry.name] = entry.stage;
    if (!entry.job.empty()) numbers[entry.stage].insert(entry.job);
    const auto started = read_marker(known.run, entry.stage, "started.json");
    if (started && started->job > 0) numbers[entry.stage].insert(std::to_string(started->job));
  }
  const auto check = [&](const QueueAnswer& answer) {
    if (!answer.answered && !answer.installed)
      throw MissingInputError(
          fmt::format("cannot look for jobs: {}: squeue, sbatch: not found; log in to a Slurm node, or use: "
                      "dino-jobs local",
                      known.run));
    if (!answer.answered)
      throw IoError(fmt::format(
          "cannot look for jobs: {}: Slurm does not answer: {}; nothing was started, try again when it does",
          known.run, answer.why));
  };
  std::vector<std::string> asked;
  for (const auto& [name, stage] : stage_of) asked.push_back(name);
  const QueueAnswer answer = ask_queue(asked);
  check(answer);
  StageJobs live;
  for (const QueuedJob& job : answer.jobs) {
    const std::string& stage = stage_of.at(job.name);
    numbers[stage].erase(job.id);
    if (is_live(job)) live[stage].push_back(job);
  }
  // Numbers that no name led to: an earlier version's jobs, or a site that renames them.
  for (const auto& [stage, jobs] : numbers) {
    for (const std::string& job : jobs) {
      const QueueAnswer one = ask_queue_for(job);
      check(one);
      if (!one.jobs.empty() && is_live(one.jobs.front())) live[stage].push_back(one.jobs.front());
    }
  }
  return live;
}

void refuse_live(const std::string& run, const StageJobs& live) {
  std::string words;
  std::vector<std::string> ids;
  for (const auto& [stage, jobs] : live) {
    for (const QueuedJob& job : jobs) {
      words += fmt::format("{}stage {} is {} as job {}", words.empty() ? "" : ", ", stage, job.state, job.id);
      ids.push_back(job.id);
    }
  }
  throw UsageError(
      fmt::format("cannot start: {}: {}; wait for it, or: scancel {}", run, words, fmt::join(ids, " ")));
}

}  // namespace dino
