// SPDX-License-Identifier: Apache-2.0
// The same chain on this machine, through mpirun.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "base/version.hpp"
#include "commands.hpp"
#include "render.hpp"
#include "shell.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

struct LocalConfig {
  std::string chain;
  int64_t ranks = 0;
};

/// The bash text of one stage. ${run} and ${stage} mean what they mean in the sbatch script.
std::string stage_script(const Chain& chain, const Stage& stage, int64_t ranks) {
  std::string line = stage.command;
  if (stage.command.empty()) {
    const std::string launcher = stage.mpi
                                     ? fmt::format("mpirun {}--oversubscribe --bind-to none -n {} ",
                                                   ::geteuid() == 0 ? "--allow-run-as-root " : "", ranks)
                                     : "";
    line = fmt::format("exec {}{} {}", launcher, shell_quote(program_path(stage.program)), stage.args);
  }
  std::string setup = stage.resources.setup.empty() ? "" : stage.resources.setup + "\n";
  if (::isatty(STDERR_FILENO) != 0) setup = "export DINO_LIVE_PROGRESS=1\n" + setup;
  return fmt::format("set -uo pipefail\nrun={}\nstage={}\nexport PATH={}:$PATH\nexport DINO_SHARE={}\n{}{}\n",
                     chain.run, stage.name, shell_quote(programs_folder()), shell_quote(share_dir()), setup,
                     line);
}

void mark(const Chain& chain, const Stage& stage, const char* file, int code, int64_t restarts) {
  const nlohmann::ordered_json json = {
      {"stage", stage.name}, {"job", 0}, {"restarts", restarts}, {"exit_code", code}, {"time", utc_now()}};
  write_file_atomically(fmt::format("{}/{}/{}", chain.run, stage.name, file),
                        json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

/// Runs one stage, again after exit code 75, until it is done. Throws an Error with the stage's own code.
void run_stage(const Chain& chain, const Stage& stage, int64_t ranks) {
  for (const std::string& other : stage.after) {
    if (!is_done(chain.run, other))
      throw UpstreamError(fmt::format("upstream stage is not complete: {}: not there; finish {} first",
                                      done_path(chain.run, other), other));
  }
  make_folders(chain.run + "/" + stage.name);
  const std::string failed = fmt::format("{}/{}/failed.json", chain.run, stage.name);
  ::unlink(failed.c_str());
  const std::string log_file = fmt::format("{}/logs/{}.log", chain.run, stage.name);
  const std::string script = stage_script(chain, stage, ranks);
  for (int64_t restarts = 0;; ++restarts) {
    log::info(fmt::format(
        "{}: {}", stage.name,
        restarts == 0 ? "starts"
                      : fmt::format("restart {} of at most {}", restarts, stage.resources.max_restarts)));
    mark(chain, stage, "started.json", 0, restarts);
    const Stopwatch watch;
    const int code = run_stage_command(script, log_file);
    if (code == 0) {
      mark(chain, stage, "done.json", 0, restarts);
      log::info(fmt::format("{}: done in {}", stage.name, human_seconds(watch.seconds())));
      return;
    }
    const bool resumable = code == static_cast<int>(ExitCode::stopped);
    if (resumable && !stop_requested() && restarts < stage.resources.max_restarts) continue;
    mark(chain, stage, "failed.json", code, restarts);
    if (resumable && stop_requested())
      throw Error(
          ExitCode::stopped,
          fmt::format("stopped: stage {}: as asked; run the same command again to go on", stage.name));
    throw Error(static_cast<ExitCode>(code),
                fmt::format("stage failed: {}: exit code {}; see {}", stage.name, code, log_file));
  }
}

ExitCode run_local(const LocalConfig& config, const CommandContext& context) {
  const Chain chain = read_chain(config.chain);
  const int64_t ranks = config.ranks > 0 ? config.ranks : chain.ranks;
  if (context.common.dry_run) {
    for (const Stage& stage : chain.stages) {
      const std::string text = fmt::format("### {}{}\n{}\n", stage.name,
                                           is_done(chain.run, stage.name) ? ": done already, not run" : "",
                                           stage_script(chain, stage, ranks));
      std::fwrite(text.data(), 1, text.size(), stdout);
    }
    return ExitCode::done;
  }
  make_folders(chain.run + "/logs");
  make_folders(chain.run + "/slurm");
  const FolderLock lock(chain.run + "/slurm");
  refuse_live_stages(chain.run);
  ChainState state{chain.name, chain.run, config.chain, utc_now(), {}};
  for (const Stage& stage : chain.stages) state.stages.push_back({stage.name, "", ""});
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
    run_stage(chain, stage, ranks);
    result["ran"].push_back(stage.name);
  }
  if (context.common.json)
    std::printf("%s\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  return ExitCode::done;
}

}  // namespace

Command local_command() {
  Command command;
  command.name = "local";
  command.summary = "run the same chain on this machine through mpirun";
  command.usage = "chain.cfg --ranks 2";
  command.description =
      "Runs the stages in order, each with mpirun. Finished stages (RUN/<stage>/done.json) are skipped, so "
      "the same command "
      "goes on after a failure. Ends at the first stage that fails, with its exit code. A stage that ends "
      "with code 75 "
      "is started again, max-restarts times at most; Ctrl-C asks the running stage to save and stop.";
  command.uses_mpi = false;
  command.make = [](OptionTable& table) -> std::function<ExitCode(CommandContext&)> {
    auto config = std::make_shared<LocalConfig>();
    table.add("chain", &config->chain, "The chain file.").positional().required();
    table.add("ranks", &config->ranks, "Ranks of every stage; 0 = as the chain file says.").range(1, 4096);
    return [config](CommandContext& context) { return run_local(*config, context); };
  };
  return command;
}

}  // namespace dino
