// SPDX-License-Identifier: Apache-2.0
// The same chain on this machine, through mpirun.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <sstream>
#include <thread>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "base/version.hpp"
#include "commands.hpp"
#include "folder_chain.hpp"
#include "markers.hpp"
#include "queue.hpp"
#include "render.hpp"
#include "shell.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

struct LocalConfig {
  std::string chain;
  FolderChain folder;  ///< instead of a chain file
  int64_t ranks = 0;
};

Schema<LocalConfig> local_options() {
  using C = LocalConfig;
  Schema<C> schema;
  schema.add("chain", &C::chain, "The chain file.").positional();
  schema.add(&C::folder, folder_options());
  schema.add("ranks", &C::ranks, "Ranks of every stage; 0 = as the chain file says.").range(1, 4096);
  return schema;
}

/// The chain file, or that of the pictures of --data.
Chain chain_of(const LocalConfig& config, const CommandContext& context) {
  const CommonOptions& common = context.common;
  const bool folder = !config.folder.data.empty();
  if (config.chain.empty() && !folder)
    throw UsageError(
        "bad options: nothing to run; give a chain file, or the pictures: --data DIR --output RUN");
  if (!config.chain.empty() &&
      (folder || !config.folder.weights.empty() || !config.folder.set.empty() || !common.output.empty()))
    throw UsageError(
        fmt::format("bad options: {}: a chain file has its own data, weights, variables and run folder; "
                    "change them there, "
                    "or leave the file out",
                    config.chain));
  if (!folder) return read_chain(config.chain);
  if (common.output.empty())
    throw UsageError("bad option: --output (command line): is missing; give the run folder");
  FolderChain wanted = config.folder;
  wanted.run = common.output;
  if (!common.dry_run || path_exists(common.output + "/chain.cfg"))
    return read_chain(place_folder_chain(wanted));
  return parse_chain(folder_chain_text(wanted), common.output + "/chain.cfg");
}

/// The bash script of one stage. ${run} and ${stage} mean what they mean in the sbatch script; its argument
/// is the number of restarts.
std::string stage_script(const Chain& chain, const Stage& stage, int64_t ranks) {
  const std::string launcher = fmt::format("mpirun {}--oversubscribe --bind-to none -n {} ",
                                           ::geteuid() == 0 ? "--allow-run-as-root " : "", ranks);
  return fmt::format(
      "#!/bin/bash\nset -uo pipefail\nrun={}\nstage={}\nfolder=$run/$stage\nrestarts=${{1:-0}}\n"
      "dino_failed() {{ dino_say \"$1\"; }}\n{}{}exit \"$dino_code\"\n",
      chain.run, stage.name, ::isatty(STDERR_FILENO) != 0 ? "export DINO_LIVE_PROGRESS=1\n" : "",
      render_runner(chain, stage, launcher));
}

void mark(const Chain& chain, const Stage& stage, const char* file, int code, int64_t restarts) {
  write_marker(chain.run, stage.name, file, {0, restarts, code, utc_now()});
}

/// What the script has written of its restarts: how many since there was progress, and how long to wait.
struct Restarts {
  int64_t tries = 0;
  double delay = 0;
};
Restarts read_restarts(const Chain& chain, const Stage& stage) {
  std::istringstream text(read_text(fmt::format("{}/{}/.restarts", chain.run, stage.name)));
  Restarts restarts;
  if (!(text >> restarts.tries >> restarts.delay) || restarts.tries < 1)
    throw DataError(fmt::format("bad record of restarts: {}/{}/.restarts: it is not two numbers; delete it",
                                chain.run, stage.name));
  return restarts;
}

void wait_or_stop(double seconds) {
  const Stopwatch watch;
  while (watch.seconds() < seconds && !stop_requested())
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

/// Runs one stage, again after exit code 75, until it is done. Throws an Error with the stage's own code.
void run_stage(const Chain& chain, const Stage& stage, const std::string& script) {
  for (const std::string& other : stage.after) {
    if (!is_done(chain.run, other))
      throw UpstreamError(fmt::format("upstream stage is not complete: {}: not there; finish {} first",
                                      marker_path(chain.run, other, "done.json"), other));
  }
  make_folders(chain.run + "/" + stage.name);
  const std::string script_file = fmt::format("{}/slurm/{}.sh", chain.run, stage.name);
  const std::string log_file = fmt::format("{}/logs/{}.log", chain.run, stage.name);
  const std::string lock_file = stage_lock(chain.run, stage.name);
  write_file_atomically(script_file, script);
  ::unlink(marker_path(chain.run, stage.name, "failed.json").c_str());
  ::unlink(marker_path(chain.run, stage.name, "done.json").c_str());  // a broken one
  const int64_t most = stage.resources.max_restarts;
  log::info(fmt::format("{}: starts", stage.name));
  for (int64_t restarts = 0;; ++restarts) {
    mark(chain, stage, "started.json", 0, restarts);
    const Stopwatch watch;
    const int code = run_stage_script({"bash", script_file, std::to_string(restarts)}, log_file, lock_file);
    if (code == 0) {
      mark(chain, stage, "done.json", 0, restarts);
      log::info(fmt::format("{}: done in {}", stage.name, human_seconds(watch.seconds())));
      return;
    }
    const bool resumable = code == static_cast<int>(ExitCode::stopped);
    if (resumable && !stop_requested()) {
      const Restarts again = read_restarts(chain, stage);
      if (again.tries <= most) {
        log::info(fmt::format("{}: restart {} ({} of at most {} since there was progress){}", stage.name,
                              restarts + 1, again.tries, most,
                              again.delay > 0 ? fmt::format(", in {:g} s", again.delay) : ""));
        wait_or_stop(again.delay);
        if (!stop_requested()) continue;
      }
    }
    const bool asked = stop_requested() && (resumable || code > 128);
    mark(chain, stage, "failed.json", asked ? static_cast<int>(ExitCode::stopped) : code, restarts);
    if (asked)
      throw Error(
          ExitCode::stopped,
          fmt::format("stopped: stage {}: as asked; run the same command again to go on", stage.name));
    throw Error(static_cast<ExitCode>(code),
                fmt::format("stage failed: {}: exit code {}; see {}", stage.name, code, log_file));
  }
}

/// A run folder that was submitted may still have jobs that write the same files.
void refuse_jobs_of(const std::string& run) {
  if (!has_state(run)) return;
  const ChainState known = read_state(run);
  const bool submitted = !known.released || std::any_of(known.stages.begin(), known.stages.end(),
                                                        [](const auto& entry) { return !entry.job.empty(); });
  if (!submitted) return;
  const StageJobs live = live_jobs(known, {});
  if (!live.empty()) refuse_live(run, live);
}

ExitCode run_local(const LocalConfig& config, CommandContext& context) {
  const Chain chain = chain_of(config, context);
  const int64_t ranks = config.ranks > 0 ? config.ranks : chain.ranks;
  std::map<std::string, std::string> scripts;
  for (const Stage& stage : chain.stages) {
    scripts[stage.name] = stage_script(chain, stage, ranks);
    check_shell(chain, stage, scripts[stage.name]);
    check_container(stage);
  }
  if (context.common.dry_run) {
    nlohmann::ordered_json plan = nlohmann::ordered_json::array();
    for (const Stage& stage : chain.stages) {
      const std::string text =
          fmt::format("### {}{}\n{}\n", stage.name,
                      is_done(chain.run, stage.name) ? ": done already, not run" : "", scripts[stage.name]);
      if (!context.common.json) std::fwrite(text.data(), 1, text.size(), stdout);
      plan.push_back({{"stage", stage.name}, {"script", scripts[stage.name]}});
    }
    context.result = json_line({{"run", chain.run}, {"stages", plan}});
    return ExitCode::done;
  }
  make_folders(chain.run + "/logs");
  make_folders(chain.run + "/slurm");
  const FolderLock lock(chain.run + "/slurm");
  refuse_jobs_of(chain.run);
  ChainState state{chain.name, chain.run, chain.source, utc_now(), {}, true};
  for (const Stage& stage : chain.stages) state.stages.push_back({stage.name, "", "", ""});
  write_state(state);
  nlohmann::ordered_json result = {{"run", chain.run},
                                   {"ran", nlohmann::ordered_json::array()},
                                   {"skipped", nlohmann::ordered_json::array()}};
  for (const Stage& stage : chain.stages) {
    if (is_done(chain.run, stage.name)) {
      log::info(fmt::format("{}: done already", stage.name));
      result["skipped"].push_back(stage.name);
      continue;
    }
    if (stop_requested())
      throw Error(ExitCode::stopped,
                  fmt::format("stopped: before stage {}: as asked; run the same command again to "
                              "go on",
                              stage.name));
    result["failed"] = stage.name;
    context.result = json_line(result);
    run_stage(chain, stage, scripts[stage.name]);
    result.erase("failed");
    result["ran"].push_back(stage.name);
  }
  if (const std::string report = chain.run + "/report.html"; path_exists(report)) {
    log::info("report: " + report);
    result["report"] = report;
  }
  context.result = json_line(result);
  return ExitCode::done;
}

}  // namespace

Command local_command() {
  Command command;
  command.name = "local";
  command.summary = "run the same chain on this machine through mpirun";
  command.usage = "(chain.cfg | --data DIR --output RUN [--weights REF]) [--ranks 2]";
  command.description =
      "With --data it needs no chain file: the pictures are curated, an encoder is pretrained on them (from "
      "--weights where given) and evaluated, and RUN/report.html is written. The chain is in RUN/chain.cfg; "
      "change it there, and the next start takes it up.\n\n"
      "Runs the stages in order, each with mpirun. Finished stages (RUN/<stage>/done.json) are skipped, so "
      "the same command "
      "goes on after a failure. Ends at the first stage that fails, with its exit code. A stage that ends "
      "with code 75 "
      "is started again, max-restarts times at most without progress (files in RUN/<stage> that are new or "
      "have "
      "changed), and later each time; Ctrl-C asks the running stage to save and stop (exit code 75).";
  command.uses_mpi = false;
  command.examples = {
      {"--data photos --output runs/photos --ranks 2", "From a folder of pictures to the report."},
      {"chain.cfg --ranks 4"}};
  command.make = with_options(local_options(), run_local);
  return command;
}

}  // namespace dino
