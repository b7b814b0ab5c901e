// SPDX-License-Identifier: Apache-2.0
#include "render.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <span>

#include "base/error.hpp"
#include "base/text.hpp"
#include "base/version.hpp"
#include "shell.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

std::string sbatch_lines(const Resources& r) {
  std::string lines;
  const auto add = [&](const char* option, const std::string& value) {
    if (!value.empty()) lines += fmt::format("#SBATCH --{}={}\n", option, value);
  };
  add("partition", r.partition);
  add("account", r.account);
  add("qos", r.qos);
  add("time", r.time);
  add("mem", r.memory);
  if (r.gpus_per_node > 0) add("gpus-per-node", std::to_string(r.gpus_per_node));
  for (const std::string& extra : r.sbatch_extra) lines += fmt::format("#SBATCH {}\n", extra);
  if (!lines.empty()) lines.pop_back();
  return lines.empty() ? "#" : lines;
}

/// The lines that start the stage's program, indented as in the template.
std::string command_lines(const Stage& stage, const std::string& launcher) {
  if (!stage.command.empty())
    return "trap : USR2\n    trap - TERM\n    trap dino_between DEBUG\n    " + stage.command;
  // exec: no shell is left around srun or the program.
  const std::string program = stage.resources.container.empty() ? shell_quote(program_path(stage.program))
                                                                : "$container " + shell_quote(stage.program);
  const std::string start = fmt::format("exec {}{}", stage.mpi ? launcher : "", program);
  // A line break between words must not end the command.
  if (stage.args.find('\n') != std::string::npos)
    return fmt::format("dino_args=({})\n  {} \"${{dino_args[@]}}\"", stage.args, start);
  return start + " " + stage.args;
}

/// What bash says about the text, or empty when it can read it.
std::string shell_fault(const std::string& text) {
  const int fd = ::memfd_create("script", 0);  // inherited: bash reads it through /proc
  if (fd < 0) throw_errno("cannot check", "a script");
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = ::write(fd, text.data() + written, text.size() - written);
    if (n <= 0) throw_errno("cannot check", "a script");
    written += static_cast<size_t>(n);
  }
  const std::string path = fmt::format("/proc/self/fd/{}", fd);
  const ShellResult result = run_tool({"/bin/bash", "-n", path}, 60);
  ::close(fd);
  // A here-document that nothing ends swallows the rest of the script; bash only warns.
  if (result.code == 0 && result.err.find("here-document") == std::string::npos) return "";
  std::string words;
  for (std::string line : split(trim(result.err), '\n')) {
    if (line.starts_with(path + ": ")) line = line.substr(path.size() + 2);
    words += (words.empty() ? "" : "; ") + line;
  }
  return words.empty() ? fmt::format("bash -n ended with code {}", result.code) : words;
}

bool ends_in_backslash(const std::string& text) {
  const size_t last = text.find_last_not_of('\\');
  return (text.size() - (last == std::string::npos ? 0 : last + 1)) % 2 == 1;
}

}  // namespace

std::string fill_template(std::string_view text,
                          const std::vector<std::pair<std::string, std::string>>& values) {
  std::string out;
  std::vector<bool> used(values.size(), false);
  for (size_t at = 0; at < text.size();) {
    size_t end = at + 1;
    while (text[at] == '@' && end < text.size() &&
           (std::isupper(static_cast<unsigned char>(text[end])) != 0 || text[end] == '_'))
      ++end;
    if (text[at] != '@' || end == at + 1 || end == text.size() || text[end] != '@') {
      out += text[at++];
      continue;
    }
    const std::string_view name = text.substr(at + 1, end - at - 1);
    const auto it =
        std::find_if(values.begin(), values.end(), [&](const auto& v) { return v.first == name; });
    if (it == values.end())
      throw InternalError(fmt::format("bad template: @{}@: it has no value; reinstall dinohpc", name));
    used[static_cast<size_t>(it - values.begin())] = true;
    out += it->second;
    at = end + 1;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (!used[i])
      throw InternalError(fmt::format("bad template: @{}@: the template does not use it; reinstall dinohpc",
                                      values[i].first));
  }
  return out;
}

std::string template_folder() {
  const std::string share = share_dir();
  for (const std::string& folder : {share + "/slurm", share + "/../slurm"}) {
    if (path_exists(folder + "/run.bash.in")) return folder;
  }
  throw MissingInputError(fmt::format(
      "cannot find the sbatch template: {}/slurm/stage.sbatch.in: not there; set DINO_SHARE or reinstall",
      share));
}

std::string job_name(const Chain& chain, const Stage& stage) {
  const std::string where = chain.run + "\n" + stage.name;
  return fmt::format("{}.{}.{}", chain.name, stage.name, hex32(crc32c(std::as_bytes(std::span(where)))));
}

void check_shell(const Chain& chain, const Stage& stage, const std::string& script) {
  const auto refuse = [&](const char* key, const std::string& why) {
    throw UsageError(fmt::format("bad chain: {}: [{}] {}: bash cannot read it: {}; correct it there",
                                 chain.source, stage.name, key, why));
  };
  const auto check = [&](const char* key, const std::string& text, const std::string& piece) {
    if (piece.empty()) return;
    if (ends_in_backslash(piece)) refuse(key, "it ends in a backslash, which takes in the next line");
    if (const std::string fault = shell_fault(text); !fault.empty()) refuse(key, fault);
  };
  check("setup", stage.resources.setup + "\n", stage.resources.setup);
  check("command", stage.command + "\n", stage.command);
  const bool lines = stage.args.find('\n') != std::string::npos;
  check("args", lines ? fmt::format("x=({})\n", stage.args) : fmt::format("x {}\n", stage.args), stage.args);
  if (const std::string fault = shell_fault(script); !fault.empty())
    refuse(stage.command.empty() ? "setup and args" : "setup and command", fault);
}

namespace {

/// One assignment a line, in the shell that starts the program; not exported.
std::string variable_lines(const Chain& chain) {
  std::string lines;
  for (const auto& [name, value] : chain.variables)
    lines += fmt::format("{}{}={}", lines.empty() ? "" : "\n", name, shell_quote(value));
  return lines.empty() ? ":" : lines;
}

}  // namespace

void check_container(const Stage& stage) {
  const std::string& container = stage.resources.container;
  if (!container.empty() && !path_exists(container))
    throw MissingInputError(fmt::format(
        "cannot find the container: {}: not there; build it (share/packaging/dinohpc.def) or correct [{}]",
        container, stage.name));
}

std::string render_runner(const Chain& chain, const Stage& stage, const std::string& launcher) {
  const std::string& setup = stage.resources.setup;
  const std::string& container = stage.resources.container;
  const std::vector<std::string>& given = stage.resources.container_options;
  std::string options;
  // Apptainer brings the driver into the image.
  if (stage.resources.gpus_per_node > 0 && std::find(given.begin(), given.end(), "--nv") == given.end())
    options = " --nv";
  for (const std::string& option : given) options += " " + shell_quote(option);
  return fill_template(read_text(template_folder() + "/run.bash.in"),
                       {{"PROGRAMS", shell_quote(programs_folder())},
                        {"SHARE", shell_quote(share_dir())},
                        {"SETUP", setup.empty() ? ":" : setup},
                        {"RUN", chain.run},
                        {"STAGE", stage.name},
                        {"VARIABLES", variable_lines(chain)},
                        {"CONTAINER", container.empty() ? ":" : "dino_in " + container + options},
                        {"COMMAND", command_lines(stage, launcher)}});
}

std::string render_stage(const Chain& chain, const Stage& stage, const std::string& script) {
  const Resources& r = stage.resources;
  // NCCL reaches another rank's GPU directly where both ranks see both; each takes its own by its place on
  // the node.
  const std::string launcher =
      fmt::format(R"(srun --mpi=pmix -K1 --unbuffered -c "${{SLURM_CPUS_PER_TASK:-1}}" {}--export=ALL )",
                  r.gpus_per_node > 0 ? "--gpu-bind=none " : "");
  return fill_template(read_text(template_folder() + "/stage.sbatch.in"),
                       {{"JOB_NAME", job_name(chain, stage)},
                        {"RUN", chain.run},
                        {"STAGE", stage.name},
                        {"NODES", std::to_string(r.nodes)},
                        {"TASKS_PER_NODE", std::to_string(r.tasks_per_node)},
                        {"CPUS_PER_TASK", std::to_string(r.cpus_per_task)},
                        {"SIGNAL_SECONDS", std::to_string(r.signal_seconds)},
                        {"MAX_RESTARTS", std::to_string(r.max_restarts)},
                        {"SITE_OPTIONS", sbatch_lines(r)},
                        {"UPSTREAM", fmt::format("{}", fmt::join(stage.after, " "))},
                        {"SCRIPT", shell_quote(script)},
                        {"RUNNER", render_runner(chain, stage, launcher)}});
}

std::vector<std::string> sbatch_words(const std::string& script,
                                      const std::vector<std::string>& dependencies) {
  std::vector<std::string> words = {"sbatch", "--parsable", "--kill-on-invalid-dep=yes"};
  if (!dependencies.empty())
    words.push_back(fmt::format("--dependency=afterok:{}", fmt::join(dependencies, ":")));
  words.push_back(script);
  return words;
}

std::string render_submit_script(const Chain& chain) {
  std::string text =
      "#!/bin/bash\n# Submits the whole chain at once: a dependency on a job that Slurm has already "
      "forgotten would\n"
      "# be taken as fulfilled. A stage that is already done leaves after a second.\nset -euo pipefail\n"
      "cd \"$(dirname \"$0\")\"\nfor name in $(compgen -e SLURM_) $(compgen -e SBATCH_); do [ \"$name\" = "
      "SLURM_CONF ] || unset \"$name\"; done\n";
  text += fmt::format("mkdir -p {}/logs\n", chain.run);
  std::map<std::string, std::string> variables;  // stage -> the shell variable with its job
  std::set<std::string> taken;
  for (const Stage& stage : chain.stages) {
    std::string name = "job_" + stage.name;
    std::replace_if(
        name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
    while (!taken.insert(name).second) name += "_";  // a-b, a.b and a_b
    variables[stage.name] = name;
    std::vector<std::string> dependencies;
    for (const std::string& other : stage.after) dependencies.push_back("$" + variables.at(other));
    text += fmt::format("{0}=$({1})\necho \"{2}: job ${0}\"\n", name,
                        fmt::join(sbatch_words(stage.name + ".sbatch", dependencies), " "), stage.name);
  }
  return text;
}

}  // namespace dino
