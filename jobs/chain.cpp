// SPDX-License-Identifier: Apache-2.0
#include "chain.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>

#include "base/error.hpp"
#include "base/text.hpp"
#include "chain_settings.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// Why `name` cannot be a stage's, or empty. It becomes a folder of the run, a log file and a part of a job's
/// name.
std::string stage_name_fault(const std::string& name, const std::vector<Stage>& earlier) {
  if (name.size() > kLongestName)
    return fmt::format("has {} letters; give a stage a name of at most {}", name.size(), kLongestName);
  if (!is_chain_name(name)) return "is not a stage name; use letters, digits, '_', '-', '.'";
  if (name.front() == '.' || name.front() == '-')
    return "is not a stage name; begin it with a letter, a digit or '_'";
  for (const char* own : {"chain", "chain.json", "chain.cfg", "logs", "slurm", "variables"}) {
    if (lower(name) == own)
      return fmt::format("is not a stage name: '{}' is the chain's own; give the stage another one", own);
  }
  for (const Stage& other : earlier) {
    if (other.name == name) return "stands twice; give each stage its own name";
    if (lower(other.name) == lower(name))
      return fmt::format(
          "differs from [{}] only in capitals, which some file systems do not tell apart; rename one",
          other.name);
  }
  return "";
}

void check_stage(const Stage& stage, const std::string& source) {
  if (stage.program.empty() == stage.command.empty())
    bad_chain(source, fmt::format("[{}] needs either program or command", stage.name), "give one of the two");
  if (!stage.command.empty() && !stage.args.empty())
    bad_chain(source, fmt::format("[{}] has a command and args", stage.name), "put the words into command");
}

/// A section without a setting leaves no trace in read_ini; a stage must not vanish like that.
void refuse_empty_sections(std::string_view text, const std::string& source, const Chain& chain) {
  for (const std::string& raw : split(text, '\n')) {
    const std::string line = trim(raw);
    if (!line.starts_with('[')) continue;
    const std::string name = trim(line.substr(1, line.find(']') - 1));
    const bool known = name == "chain" || name == "variables" ||
                       std::any_of(chain.stages.begin(), chain.stages.end(),
                                   [&](const Stage& stage) { return stage.name == name; });
    if (!known) bad_chain(source, fmt::format("[{}] has no settings", name), "give a program or a command");
  }
}

bool is_variable_name(const std::string& name) {
  static constexpr std::array own = {"run", "stage", "folder", "restarts"};
  return !name.empty() && name[0] >= 'a' && name[0] <= 'z' && !name.starts_with("dino_") &&
         std::find(own.begin(), own.end(), name) == own.end() &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; });
}

void add_variable(Chain& chain, const IniLine& line, const std::string& place) {
  if (!is_variable_name(line.key))
    bad_chain(
        place, fmt::format("'{}' is not a variable's name", line.key),
        "use lower-case letters, digits and '_', and none of the stage's own names (run, stage, folder, "
        "restarts, dino_...)");
  for (const auto& [name, value] : chain.variables)
    if (name == line.key)
      bad_chain(place, fmt::format("the variable {} is there already", name), "give it one value");
  const std::string value = ini_word(line.value, place);
  if (!is_one_line(value))
    bad_chain(place, fmt::format("{} has more than one line", line.key), "give it one");
  chain.variables.emplace_back(line.key, value);
}

}  // namespace

// Paths go into #SBATCH lines and shell words as they stand, and '%' means something to sbatch.
bool is_plain_path(const std::string& path) {
  return !path.empty() && std::all_of(path.begin(), path.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("/_-.+,=@:").find(c) != std::string_view::npos;
  });
}

namespace {

/// The lines of a section, in their order.
std::vector<IniLine> lines_of(const std::vector<IniLine>& lines, const std::string& section) {
  std::vector<IniLine> own;
  for (const IniLine& line : lines)
    if (line.section == section) own.push_back(line);
  return own;
}

void settle_run_folder(Chain& chain) {
  if (chain.run.empty()) bad_chain(chain.source, "[chain] has no run folder", "give run = FOLDER");
  chain.run = std::filesystem::absolute(chain.run).lexically_normal().string();
  while (chain.run.size() > 1 && chain.run.back() == '/') chain.run.pop_back();
  if (!is_plain_path(chain.run))
    bad_chain(chain.source, fmt::format("run = {} has a space or another special character", chain.run),
              "choose a plain path");
  if (chain.name.empty()) chain.name = std::filesystem::path(chain.run).filename().string();
}

}  // namespace

Chain parse_chain(std::string_view text, const std::string& source) {
  const std::vector<IniLine> lines = read_ini(text, source, "bad chain");
  Chain chain;
  chain.source = source;
  Resources defaults;
  if (!lines.empty() && lines.front().section.empty())
    bad_chain(fmt::format("{}:{}", source, lines.front().number), "a setting stands before the first section",
              "begin with [chain]");
  read_chain_section(lines_of(lines, "chain"), source, chain, defaults);
  settle_run_folder(chain);
  std::string section = "chain";
  for (const IniLine& line : lines) {
    const std::string place = fmt::format("{}:{}", source, line.number);
    if (line.section == "variables") add_variable(chain, line, place);
    if (line.section == "chain" || line.section == "variables" || line.section == section) continue;
    section = line.section;
    if (const std::string fault = stage_name_fault(section, chain.stages); !fault.empty())
      throw UsageError(fmt::format("bad chain: {}: [{}] {}", place, section, fault));
    Stage stage;
    stage.name = section;
    stage.resources = defaults;
    // A chain is a chain: without `after`, a stage follows the one above it.
    if (!chain.stages.empty()) stage.after = {chain.stages.back().name};
    chain.stages.push_back(std::move(stage));
    read_stage_section(lines_of(lines, section), source, chain);
  }
  refuse_empty_sections(text, source, chain);
  if (chain.stages.empty())
    bad_chain(source, "there is no stage", "add a section such as [curate]; see dino-jobs init");
  for (const Stage& stage : chain.stages) check_stage(stage, source);
  return chain;
}

Chain read_chain(const std::string& path) {
  return parse_chain(read_text(path), path);
}

std::string program_path(const std::string& program) {
  if (program.find('/') != std::string::npos) return program;
  const std::string beside = programs_folder() + "/" + program;
  return path_exists(beside) ? beside : program;
}

std::string programs_folder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
}

}  // namespace dino
