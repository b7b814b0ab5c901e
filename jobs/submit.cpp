// SPDX-License-Identifier: Apache-2.0
// init, render and submit.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <set>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "base/timing.hpp"
#include "commands.hpp"
#include "folder_chain.hpp"
#include "markers.hpp"
#include "queue.hpp"
#include "render.hpp"
#include "shell.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr double kSlurmSeconds = 120;

struct ChainConfig {
  std::string chain;
};

Schema<ChainConfig> chain_options() {
  Schema<ChainConfig> schema;
  schema.add("chain", &ChainConfig::chain, "The chain file.").positional().required();
  return schema;
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

std::string script_path(const std::string& folder, const Stage& stage) {
  return fmt::format("{}/{}.sbatch", folder, stage.name);
}

/// A script that bash can read; UsageError before anything is written or submitted.
std::string checked_script(const Chain& chain, const Stage& stage, const std::string& folder) {
  std::string text = render_stage(chain, stage, script_path(folder, stage));
  check_shell(chain, stage, text);
  return text;
}

struct InitConfig {
  std::string file = "chain.cfg";
  FolderChain folder;
};

Schema<InitConfig> init_options() {
  Schema<InitConfig> schema;
  schema.add("file", &InitConfig::file, "The file to write.").positional();
  schema.add(&InitConfig::folder, folder_options());
  return schema;
}

ExitCode init(const InitConfig& config, CommandContext& context) {
  const std::string& file = config.file;
  FolderChain wanted = config.folder;
  wanted.run = context.common.output;
  if (wanted.data.empty() && (!wanted.weights.empty() || !wanted.set.empty() || !wanted.run.empty()))
    throw UsageError("bad options: --weights, --set and --output go with --data; give the pictures too");
  if (path_exists(file))
    throw UsageError(fmt::format("cannot write chain: {}: it is there already; name another file", file));
  const std::string text =
      wanted.data.empty() ? read_text(template_folder() + "/chain.cfg") : folder_chain_text(wanted);
  if (!context.common.dry_run) write_file_atomically(file, text);
  if (!context.common.dry_run)
    log::info(fmt::format("wrote {}; edit it, then try: dino-jobs render {} --output scripts", file, file));
  context.result = json_line({{"file", file}});
  return ExitCode::done;
}

ExitCode render(const ChainConfig& config, CommandContext& context) {
  const Chain chain = read_chain(config.chain);
  const std::string folder = std::filesystem::absolute(context.common.output).lexically_normal().string();
  std::vector<std::pair<std::string, std::string>> files;
  for (const Stage& stage : chain.stages)
    files.emplace_back(script_path(folder, stage), checked_script(chain, stage, folder));
  files.emplace_back(folder + "/submit.sh", render_submit_script(chain));
  nlohmann::ordered_json written = nlohmann::ordered_json::array();
  for (const auto& [path, text] : files) {
    if (context.common.dry_run) {
      written.push_back({{"path", path}, {"text", text}});
      if (!context.common.json) print(fmt::format("### {}\n{}", path, text));
      continue;
    }
    make_folders(folder);
    write_file_atomically(path, text);
    written.push_back(path);
    if (!context.common.json) print(path + "\n");
  }
  context.result = json_line({{"files", written}});
  return ExitCode::done;
}

/// All lines of a tool as one, control characters as spaces.
std::string all_words(const ShellResult& result) {
  std::string words;
  for (const std::string& text : {result.err, result.out}) {
    for (std::string line : split(text, '\n')) {
      std::replace_if(
          line.begin(), line.end(), [](unsigned char c) { return c < 0x20; }, ' ');
      line = trim(line);
      if (!line.empty()) words += (words.empty() ? "" : "; ") + line;
    }
  }
  return words.empty() ? fmt::format("it ended with code {}", result.code) : words;
}

/// The number in what sbatch --parsable printed ("123", "123;cluster"; some sites print more lines), or
/// empty.
std::string job_number(const std::string& out) {
  std::string job;
  for (const std::string& line : split(out, '\n')) {
    const std::string word = split(trim(line), ';').front();
    if (!word.empty() && word.find_first_not_of("0123456789") == std::string::npos) job = word;
  }
  return job;
}

/// One submission of a chain. What it has done is in chain.json after every step, so that another `submit`
/// can go on where this one was killed.
class Submission {
 public:
  Submission(const Chain& chain, ChainState state, StageJobs adopted)
      : chain_(chain), state_(std::move(state)), adopted_(std::move(adopted)) {
    for (ChainState::Entry& entry : state_.stages) {
      if (const auto it = adopted_.find(entry.stage); it != adopted_.end()) entry.job = it->second.front().id;
    }
  }

  void submit_all(const std::map<std::string, std::string>& scripts) {
    write_state(state_);
    for (size_t i = 0; i < chain_.stages.size(); ++i) {
      const Stage& stage = chain_.stages[i];
      const auto script = scripts.find(stage.name);
      if (script == scripts.end()) continue;  // done
      ChainState::Entry& entry = state_.stages[i];
      const std::vector<std::string> dependencies = dependencies_of(stage);
      if (const auto it = adopted_.find(stage.name); it != adopted_.end()) {
        adopt(stage, it->second.front(), dependencies);
      } else {
        write_file_atomically(entry.script, script->second);
        entry.job = call_sbatch(stage, sbatch_words(entry.script, dependencies));
        fresh_.push_back(entry.job);
        held_.push_back(entry.job);
      }
      jobs_[stage.name] = entry.job;
      write_state(state_);
    }
    release();
    state_.released = true;
    write_state(state_);
  }

  void report(CommandContext& context) const {
    nlohmann::ordered_json stages = nlohmann::ordered_json::array();
    for (const ChainState::Entry& entry : state_.stages) {
      const bool adopted = adopted_.contains(entry.stage);
      stages.push_back({{"stage", entry.stage}, {"job", entry.job}, {"adopted", adopted}});
      if (!context.common.json)
        print(fmt::format("{}: {}{}\n", entry.stage, entry.job.empty() ? "done already" : "job " + entry.job,
                          adopted ? ", submitted earlier" : ""));
    }
    context.result = json_line({{"run", state_.run}, {"stages", stages}});
  }

 private:
  [[nodiscard]] std::vector<std::string> dependencies_of(const Stage& stage) const {
    std::vector<std::string> jobs;
    for (const std::string& other : stage.after) {
      if (const auto it = jobs_.find(other); it != jobs_.end()) jobs.push_back(it->second);
    }
    return jobs;
  }

  /// A job of a submission that was cut short. The ones it waits for may have been submitted anew since.
  void adopt(const Stage& stage, const QueuedJob& job, const std::vector<std::string>& dependencies) {
    if (job.state != "PENDING") return;
    held_.push_back(job.id);
    const std::string wanted =
        dependencies.empty() ? "" : fmt::format("afterok:{}", fmt::join(dependencies, ":"));
    const ShellResult result = run_tool({"scontrol", "update", "JobId=" + job.id, "Dependency=" + wanted},
                                        slurm_seconds(kSlurmSeconds));
    if (result.code != 0)
      throw IoError(
          fmt::format("cannot submit: stage {}: job {} of an earlier try does not take its dependency '{}': "
                      "{}; submit again, "
                      "or first: scancel {}",
                      stage.name, job.id, wanted, all_words(result), job.id));
  }

  /// A job on hold. Until all are in, no stage can end, and be forgotten, before the next has named it.
  std::string call_sbatch(const Stage& stage, std::vector<std::string> words) {
    words.insert(words.begin() + 1, "--hold");
    const double seconds = slurm_seconds(kSlurmSeconds);
    const ShellResult result = run_tool(words, seconds);
    const std::string job = job_number(result.out);
    if (result.code == 0 && !job.empty()) {
      if (!trim(result.err).empty())
        log::warning(fmt::format("stage {}: sbatch says: {}", stage.name, all_words({0, "", result.err})));
      return job;
    }
    if (const std::string taken = taken_all_the_same(stage, result); !taken.empty()) return taken;
    if (result.code == 124)
      throw IoError(fmt::format(
          "cannot submit: stage {}: {}: sbatch has not answered within {:g} s; what was submitted is "
          "on hold, and submit goes on with it (or: scancel --name={})",
          stage.name, words.back(), seconds, fmt::join(names(), ",")));
    const std::string left = take_back();
    if (result.code == 127)
      throw MissingInputError(
          "cannot submit: sbatch: not found; log in to a Slurm node, or use: dino-jobs local");
    throw IoError(fmt::format("cannot submit: stage {}: {}: {}; correct the chain file, {}", stage.name,
                              words.back(), all_words(result), left));
  }

  /// A controller under load takes a job and answers too late. Its number, or empty.
  std::string taken_all_the_same(const Stage& stage, const ShellResult& result) {
    if (result.code == 127) return "";
    const QueueAnswer answer = ask_queue({job_name(chain_, stage)});
    const auto job = std::find_if(answer.jobs.begin(), answer.jobs.end(), is_live);
    if (job == answer.jobs.end()) return "";
    log::warning(fmt::format("stage {}: sbatch failed ({}), but its job {} is in the queue", stage.name,
                             result.code == 124 ? "no answer in time" : all_words(result), job->id));
    return job->id;
  }

  /// Cancels what this submission has brought in or taken over. Says what is left.
  std::string take_back() {
    std::set<std::string> jobs(fresh_.begin(), fresh_.end());
    for (const auto& [stage, adopted] : adopted_) jobs.insert(adopted.front().id);
    if (jobs.empty()) return "nothing was submitted";
    std::vector<std::string> cancel = {"scancel"};
    cancel.insert(cancel.end(), jobs.begin(), jobs.end());
    const std::string ids = fmt::format("{}", fmt::join(jobs, " "));
    if (run_tool(cancel, slurm_seconds(kSlurmSeconds)).code != 0)
      return fmt::format("jobs {} are still on hold: submit goes on with them (or: scancel {})", ids, ids);
    for (ChainState::Entry& entry : state_.stages) entry.job.clear();
    write_state(state_);
    return fmt::format("nothing is left submitted (jobs {} were cancelled)", ids);
  }

  void release() {
    if (held_.empty()) return;
    const ShellResult result = run_tool({"scontrol", "release", fmt::format("{}", fmt::join(held_, ","))},
                                        slurm_seconds(kSlurmSeconds));
    if (result.code == 0) return;
    throw IoError(
        fmt::format("cannot release: jobs {}: {}; they wait on hold: submit again, or: scontrol release {}",
                    fmt::join(held_, ","), all_words(result), fmt::join(held_, ",")));
  }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const ChainState::Entry& entry : state_.stages) all.push_back(entry.name);
    return all;
  }

  const Chain& chain_;
  ChainState state_;
  StageJobs adopted_;
  std::map<std::string, std::string> jobs_;  ///< stage -> job, of this submission
  std::vector<std::string> fresh_, held_;
};

void print_plan(const Chain& chain, const std::map<std::string, std::string>& scripts,
                CommandContext& context) {
  nlohmann::ordered_json stages = nlohmann::ordered_json::array();
  const auto tell = [&](const std::string& text) {
    if (!context.common.json) print(text);
  };
  for (const Stage& stage : chain.stages) {
    const auto script = scripts.find(stage.name);
    if (script == scripts.end()) {
      tell(fmt::format("### {}: done already, not submitted\n", stage.name));
      continue;
    }
    std::vector<std::string> dependencies;
    for (const std::string& other : stage.after) {
      if (scripts.contains(other)) dependencies.push_back("JOB_OF_" + other);
    }
    const std::string path = script_path(chain.run + "/slurm", stage);
    const std::vector<std::string> words = sbatch_words(path, dependencies);
    tell(fmt::format("### {}\n{}\n", fmt::join(words, " "), script->second));
    stages.push_back({{"stage", stage.name}, {"sbatch", words}, {"script", script->second}});
  }
  context.result = json_line({{"run", chain.run}, {"stages", stages}});
}

/// The jobs of a submission that was cut short before it released them. Any other live job refuses a new one.
StageJobs jobs_to_adopt(const Chain& chain, const std::map<std::string, std::string>& scripts) {
  ChainState known;
  known.run = chain.run;
  if (has_state(chain.run)) known = read_state(chain.run);
  std::map<std::string, std::string> names;
  for (const Stage& stage : chain.stages) names[stage.name] = job_name(chain, stage);
  StageJobs live = live_jobs(known, names);
  if (live.empty()) return live;
  const bool finished = !known.stages.empty() && known.released;
  const bool twice =
      std::any_of(live.begin(), live.end(), [](const auto& one) { return one.second.size() > 1; });
  if (finished || twice) refuse_live(chain.run, live);
  for (const auto& [stage, jobs] : live) {
    const auto script = scripts.find(stage);
    const std::string path = fmt::format("{}/slurm/{}.sbatch", chain.run, stage);
    if (script != scripts.end() && path_exists(path) && read_text(path) == script->second) continue;
    throw UsageError(
        fmt::format("cannot submit: stage {}: job {} is {}, and was submitted with other settings than the "
                    "chain file has now; "
                    "first: scancel {}",
                    stage, jobs.front().id, jobs.front().state, jobs.front().id));
  }
  return live;
}

ExitCode submit(const ChainConfig& config, CommandContext& context) {
  const Chain chain = read_chain(config.chain);
  const std::string folder = chain.run + "/slurm";
  std::map<std::string, std::string> scripts;  // of the stages that are not done
  for (const Stage& stage : chain.stages) {
    const std::string text = checked_script(chain, stage, folder);
    if (is_done(chain.run, stage.name)) continue;
    check_container(stage);
    scripts[stage.name] = text;
  }
  if (context.common.dry_run) {
    print_plan(chain, scripts, context);
    return ExitCode::done;
  }
  make_folders(folder);
  make_folders(chain.run + "/logs");
  const FolderLock lock(folder);
  for (const auto& [stage, script] : scripts) {
    if (is_stage_running(stage_lock(chain.run, stage)))
      throw UsageError(
          fmt::format("cannot start: {}: stage {} of a killed dino-jobs local is still saving its work; "
                      "submit when it is over",
                      chain.run, stage));
  }
  StageJobs adopted = jobs_to_adopt(chain, scripts);

  ChainState state{chain.name, chain.run, config.chain, utc_now(), {}, false};
  for (const Stage& stage : chain.stages) {
    if (has_broken_done(chain.run, stage.name))
      log::warning(fmt::format("stage {}: {} is empty, cut off or not of a success; it is run again",
                               stage.name, marker_path(chain.run, stage.name, "done.json")));
    state.stages.push_back({stage.name, "", script_path(folder, stage), job_name(chain, stage)});
  }
  Submission submission(chain, std::move(state), std::move(adopted));
  submission.submit_all(scripts);
  submission.report(context);
  return ExitCode::done;
}

}  // namespace

Command init_command() {
  Command command;
  command.name = "init";
  command.summary = "write a commented chain file to start from";
  command.usage = "[chain.cfg] [--data DIR [--output RUN] [--weights REF]]";
  command.description =
      "Writes a chain of curate, pretrain, features, eval and report with every setting explained; with "
      "--data the short one that dino-jobs local --data runs, filled in, to edit and to submit (--output: "
      "its run folder; default: runs/ and the name of the data). Never overwrites a file.";
  command.uses_mpi = false;
  command.examples = {{"chain.cfg"},
                      {"photos.cfg --data photos --output runs/photos", "The chain of a folder, to edit."}};
  command.make = with_options(init_options(), init);
  return command;
}

Command render_command() {
  Command command;
  command.name = "render";
  command.summary = "write the sbatch script of every stage, to read or to submit by hand";
  command.usage = "chain.cfg --output scripts";
  command.description =
      "Writes OUTPUT/<stage>.sbatch for every stage, and OUTPUT/submit.sh, which submits them in order. With "
      "--dry-run the scripts are printed instead.";
  command.uses_mpi = false;
  command.output = "Folder for the scripts.";
  command.examples = {{"chain.cfg --output scripts"}};
  command.make = with_options(chain_options(), render);
  return command;
}

Command submit_command() {
  Command command;
  command.name = "submit";
  command.summary = "submit the chain to Slurm in one go";
  command.usage = "chain.cfg";
  command.description =
      "Every stage becomes a job that starts when the stages before it have ended well (afterok); when one "
      "fails, "
      "the ones behind it are cancelled. Stages with a RUN/<stage>/done.json are skipped, and a chain whose "
      "jobs are "
      "still in the queue is refused. Job ids are kept in RUN/chain.json, scripts in RUN/slurm, logs in "
      "RUN/logs. A "
      "chain with a script that bash cannot read is refused as a whole.\n\n"
      "The jobs are on hold until all are in. When that was cut short, by a crash or a controller that did "
      "not "
      "answer, the same command finds the jobs by their names, goes on with them and releases them. Nothing "
      "is "
      "submitted while Slurm does not answer. Its commands have 20 s for a question and 120 s for an order, "
      "or what "
      "the environment's DINO_SLURM_TIMEOUT says.\n\n"
      "A stage that stops with exit code 75 (time limit, preemption) is requeued and resumes: max-restarts "
      "times at "
      "most without progress (files in RUN/<stage> that are new or have changed), each after twice the wait, "
      "and as "
      "often as need be with progress. With --dry-run the sbatch calls and scripts are printed, and nothing "
      "is "
      "written.";
  command.uses_mpi = false;
  command.examples = {{"chain.cfg"}, {"chain.cfg --dry-run", "Print the sbatch calls and scripts."}};
  command.make = with_options(chain_options(), submit);
  return command;
}

}  // namespace dino
