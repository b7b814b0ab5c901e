// SPDX-License-Identifier: Apache-2.0
// init, render and submit.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/log.hpp"
#include "base/text.hpp"
#include "base/timing.hpp"
#include "commands.hpp"
#include "render.hpp"
#include "shell.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr double kSbatchSeconds = 120;

struct ChainConfig {
  std::string chain;
};

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

std::string script_path(const std::string& folder, const Stage& stage) {
  return fmt::format("{}/{}.sbatch", folder, stage.name);
}

ExitCode init(const std::string& file) {
  if (path_exists(file))
    throw UsageError(fmt::format("cannot write chain: {}: it is there already; name another file", file));
  write_file_atomically(file, read_text(template_folder() + "/chain.cfg"));
  log::info(fmt::format("wrote {}; edit it, then try: dino-jobs render {} --output scripts", file, file));
  return ExitCode::done;
}

ExitCode render(const std::string& chain_file, const CommandContext& context) {
  const Chain chain = read_chain(chain_file);
  if (context.common.output.empty())
    throw UsageError("bad option: --output (command line): is missing; give the folder for the scripts");
  const std::string folder = std::filesystem::absolute(context.common.output).lexically_normal().string();
  std::vector<std::pair<std::string, std::string>> files;
  for (const Stage& stage : chain.stages)
    files.emplace_back(script_path(folder, stage), render_stage(chain, stage, script_path(folder, stage)));
  files.emplace_back(folder + "/submit.sh", render_submit_script(chain));
  nlohmann::ordered_json written = nlohmann::ordered_json::array();
  for (const auto& [path, text] : files) {
    if (context.common.dry_run) {
      print(fmt::format("### {}\n{}", path, text));
      continue;
    }
    make_folders(folder);
    write_file_atomically(path, text);
    written.push_back(path);
    if (!context.common.json) print(path + "\n");
  }
  if (context.common.json)
    print(nlohmann::ordered_json{{"files", written}}.dump(-1, ' ', false,
                                                          nlohmann::json::error_handler_t::replace) +
          "\n");
  return ExitCode::done;
}

/// Calls sbatch; a failure takes back the jobs submitted so far.
std::string submit_stage(const Stage& stage, std::vector<std::string> words,
                         const std::vector<std::string>& so_far) {
  // On hold until all are in: no stage can end, and be forgotten, before the next has named it.
  words.insert(words.begin() + 1, "--hold");
  const ShellResult result = run_tool(words, kSbatchSeconds);
  const std::string job = split(trim(result.out), ';').front();  // "123" or "123;cluster"
  const bool is_number = !job.empty() && job.find_first_not_of("0123456789") == std::string::npos;
  if (result.code == 0 && is_number) return job;
  if (!so_far.empty()) {
    std::vector<std::string> cancel = {"scancel"};
    cancel.insert(cancel.end(), so_far.begin(), so_far.end());
    (void)run_tool(cancel, kSbatchSeconds);
  }
  if (result.code == 127)
    throw MissingInputError(
        "cannot submit: sbatch: not found; log in to a Slurm node, or use: dino-jobs local");
  throw IoError(fmt::format(
      "cannot submit: stage {}: {}; correct the chain file, nothing was submitted", stage.name,
      trim(result.err).empty() ? fmt::format("sbatch ended with code {}", result.code) : trim(result.err)));
}

void print_plan(const Chain& chain) {
  const std::string folder = chain.run + "/slurm";
  for (const Stage& stage : chain.stages) {
    if (is_done(chain.run, stage.name)) {
      print(fmt::format("### {}: done already, not submitted\n", stage.name));
      continue;
    }
    std::vector<std::string> dependencies;
    for (const std::string& other : stage.after) {
      if (!is_done(chain.run, other)) dependencies.push_back("JOB_OF_" + other);
    }
    const std::string script = script_path(folder, stage);
    print(fmt::format("### {}\n{}\n", fmt::join(sbatch_words(script, dependencies), " "),
                      render_stage(chain, stage, script)));
  }
}

void report(const ChainState& state, bool json) {
  nlohmann::ordered_json stages = nlohmann::ordered_json::array();
  for (const ChainState::Entry& entry : state.stages) {
    stages.push_back({{"stage", entry.stage}, {"job", entry.job}});
    if (!json)
      print(fmt::format("{}: {}\n", entry.stage, entry.job.empty() ? "done already" : "job " + entry.job));
  }
  if (json)
    print(nlohmann::ordered_json{{"run", state.run}, {"stages", stages}}.dump(
              -1, ' ', false, nlohmann::json::error_handler_t::replace) +
          "\n");
}

ExitCode submit(const std::string& chain_file, const CommandContext& context) {
  const Chain chain = read_chain(chain_file);
  if (context.common.dry_run) {
    print_plan(chain);
    return ExitCode::done;
  }
  const std::string folder = chain.run + "/slurm";
  make_folders(folder);
  make_folders(chain.run + "/logs");
  const FolderLock lock(folder);
  refuse_live_stages(chain.run);

  ChainState state{chain.name, chain.run, chain_file, utc_now(), {}};
  std::map<std::string, std::string> jobs;
  std::vector<std::string> submitted;
  for (const Stage& stage : chain.stages) {
    const std::string script = script_path(folder, stage);
    if (!is_done(chain.run, stage.name)) {
      write_file_atomically(script, render_stage(chain, stage, script));
      std::vector<std::string> dependencies;
      for (const std::string& other : stage.after) {
        if (jobs.contains(other)) dependencies.push_back(jobs[other]);
      }
      jobs[stage.name] = submit_stage(stage, sbatch_words(script, dependencies), submitted);
      submitted.push_back(jobs[stage.name]);
    }
    state.stages.push_back({stage.name, jobs.contains(stage.name) ? jobs[stage.name] : "", script});
    write_state(state);
  }
  if (!submitted.empty()) {
    const ShellResult released =
        run_tool({"scontrol", "release", fmt::format("{}", fmt::join(submitted, ","))}, kSbatchSeconds);
    if (released.code != 0)
      throw IoError(fmt::format("cannot release: jobs {}: {}; try: scontrol release {}",
                                fmt::join(submitted, ","), trim(released.err), fmt::join(submitted, ",")));
  }
  report(state, context.common.json);
  return ExitCode::done;
}

/// A command whose only own option is the chain file.
template <class Run>
std::function<std::function<ExitCode(CommandContext&)>(OptionTable&)> with_chain(Run run) {
  return [run](OptionTable& table) -> std::function<ExitCode(CommandContext&)> {
    auto config = std::make_shared<ChainConfig>();
    table.add("chain", &config->chain, "The chain file.").positional().required();
    return [config, run](CommandContext& context) { return run(config->chain, context); };
  };
}

}  // namespace

Command init_command() {
  Command command;
  command.name = "init";
  command.summary = "write a commented chain file to start from";
  command.usage = "chain.cfg";
  command.description =
      "Writes a chain of curate, pretrain, features, eval and report with every setting explained. Never "
      "overwrites a file.";
  command.uses_mpi = false;
  command.make = [](OptionTable& table) -> std::function<ExitCode(CommandContext&)> {
    auto file = std::make_shared<std::string>("chain.cfg");
    table.add("file", file.get(), "The file to write.").positional();
    return [file](CommandContext&) { return init(*file); };
  };
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
  command.make = with_chain(render);
  return command;
}

Command submit_command() {
  Command command;
  command.name = "submit";
  command.summary = "submit the chain to Slurm in one go";
  command.usage = "chain.cfg";
  command.description =
      "Every stage becomes a job that starts when the stages before it have ended well (afterok); when one "
      "fails, the ones "
      "behind it are cancelled. Stages with a RUN/<stage>/done.json are skipped, and a chain whose jobs are "
      "still in the "
      "queue is refused. Job ids are kept in RUN/chain.json, scripts in RUN/slurm, logs in RUN/logs.\n\n"
      "A stage that stops with exit code 75 (time limit, preemption) is requeued and resumes. With --dry-run "
      "the sbatch "
      "calls and scripts are printed, and nothing is written.";
  command.uses_mpi = false;
  command.make = with_chain(submit);
  return command;
}

}  // namespace dino
