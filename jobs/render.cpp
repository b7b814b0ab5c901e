// SPDX-License-Identifier: Apache-2.0
#include "render.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "base/error.hpp"
#include "base/text.hpp"
#include "base/version.hpp"
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
  for (const std::string& extra : r.sbatch_extra) lines += fmt::format("#SBATCH {}\n", extra);
  if (!lines.empty()) lines.pop_back();
  return lines.empty() ? "#" : lines;
}

std::string command_line(const Stage& stage) {
  if (!stage.command.empty()) return stage.command;
  // exec: the signals that the script passes on reach srun or the program, not a shell around it.
  const std::string launcher =
      stage.mpi ? R"(srun --mpi=pmix -K1 --unbuffered -c "${SLURM_CPUS_PER_TASK:-1}" )" : "";
  return fmt::format("exec {}{} {}", launcher, shell_quote(program_path(stage.program)), stage.args);
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

std::string shell_quote(const std::string& word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("/_-.+,=@:%").find(c) != std::string_view::npos;
  });
  if (plain) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string template_folder() {
  const std::string share = share_dir();
  for (const std::string& folder : {share + "/slurm", share + "/../slurm"}) {
    if (path_exists(folder + "/stage.sbatch.in")) return folder;
  }
  throw MissingInputError(fmt::format(
      "cannot find the sbatch template: {}/slurm/stage.sbatch.in: not there; set DINO_SHARE or reinstall",
      share));
}

std::string render_stage(const Chain& chain, const Stage& stage, const std::string& script) {
  const Resources& r = stage.resources;
  return fill_template(read_text(template_folder() + "/stage.sbatch.in"),
                       {{"JOB_NAME", fmt::format("{}.{}", chain.name, stage.name)},
                        {"RUN", chain.run},
                        {"STAGE", stage.name},
                        {"NODES", std::to_string(r.nodes)},
                        {"TASKS_PER_NODE", std::to_string(r.tasks_per_node)},
                        {"CPUS_PER_TASK", std::to_string(r.cpus_per_task)},
                        {"SIGNAL_SECONDS", std::to_string(r.signal_seconds)},
                        {"MAX_RESTARTS", std::to_string(r.max_restarts)},
                        {"SITE_OPTIONS", sbatch_lines(r)},
                        {"UPSTREAM", fmt::format("{}", fmt::join(stage.after, " "))},
                        {"PROGRAMS", shell_quote(programs_folder())},
                        {"SHARE", shell_quote(share_dir())},
                        {"SCRIPT", shell_quote(script)},
                        {"SETUP", r.setup.empty() ? ":" : r.setup},
                        {"COMMAND", command_line(stage)}});
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
  const auto variable = [](const std::string& stage) {
    std::string name = "job_" + stage;
    std::replace_if(
        name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
    return name;
  };
  for (const Stage& stage : chain.stages) {
    std::vector<std::string> dependencies;
    for (const std::string& other : stage.after) dependencies.push_back("$" + variable(other));
    text += fmt::format("{}=$({})\necho \"{}: job ${}\"\n", variable(stage.name),
                        fmt::join(sbatch_words(stage.name + ".sbatch", dependencies), " "), stage.name,
                        variable(stage.name));
  }
  return text;
}

}  // namespace dino
