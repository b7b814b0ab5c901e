// SPDX-License-Identifier: Apache-2.0
#include "chain.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>

#include "base/error.hpp"
#include "base/text.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr size_t kLongestName = 100;

[[noreturn]] void bad(const std::string& place, const std::string& why, const std::string& action) {
  throw UsageError(fmt::format("bad chain: {}: {}; {}", place, why, action));
}

bool is_name(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
  });
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// Why `name` cannot be a stage's, or empty. It becomes a folder of the run, a log file and a part of a job's
/// name.
std::string stage_name_fault(const std::string& name, const std::vector<Stage>& earlier) {
  if (!is_name(name)) return "is not a stage name; use letters, digits, '_', '-', '.'";
  if (name.front() == '.' || name.front() == '-')
    return "is not a stage name; begin it with a letter, a digit or '_'";
  if (name.size() > kLongestName)
    return fmt::format("has {} letters; give a stage a name of at most {}", name.size(), kLongestName);
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

int64_t count_of(const std::string& word, const std::string& key, const std::string& place, int64_t low) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size() || value < low || value > 1000000)
    bad(place, fmt::format("{} = '{}' is not a whole number from {}", key, word, low), "correct it");
  return value;
}

/// ${NAME} from the environment.
std::string expand(const std::string& text, const std::string& place) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.compare(at, 2, "${") == 0 ? text.find('}', at) : std::string::npos;
    if (end == std::string::npos) {
      out += text[at++];
      continue;
    }
    const std::string name = text.substr(at + 2, end - at - 2);
    const char* value = std::getenv(name.c_str());
    if (value == nullptr)
      bad(place, fmt::format("the environment has no {}", name), "set it, or write the folder");
    out += value;
    at = end + 1;
  }
  return out;
}

using Setters = std::map<std::string, std::function<void(const std::string& word, const std::string& place)>>;

/// A line of a shell script or an #SBATCH line must not become two.
bool is_one_line(const std::string& word) {
  return std::none_of(word.begin(), word.end(),
                      [](unsigned char c) { return c == 0x7f || (c < 0x20 && c != '\t'); });
}

void add_text(Setters& setters, const std::string& key, std::string& field) {
  setters[key] = [&field](const std::string& word, const std::string&) { field = word; };
}

/// A value of an #SBATCH line: one word.
void add_word(Setters& setters, const std::string& key, std::string& field) {
  setters[key] = [&field, key](const std::string& word, const std::string& place) {
    if (!is_one_line(word) || word.find_first_of(" \t\"'") != std::string::npos)
      bad(place, fmt::format("{} = '{}' is more than one word", key, word), "give one value");
    field = word;
  };
}

void add_count(Setters& setters, const std::string& key, int64_t& field, int64_t low) {
  setters[key] = [&field, key, low](const std::string& word, const std::string& place) {
    field = count_of(word, key, place, low);
  };
}

void add_container(Setters& setters, Resources& r) {
  // Empty: the programs of this machine, where [chain] names a container.
  setters["container"] = [&r](const std::string& word, const std::string& place) {
    r.container = expand(word, place);
    if (r.container.empty()) return;
    r.container = std::filesystem::absolute(r.container).lexically_normal().string();
    if (!is_plain_path(r.container))
      bad(place, fmt::format("container = {} has a space or another special character", r.container),
          "choose a plain path");
  };
  setters["container-options"] = [&r](const std::string& word, const std::string& place) {
    r.container_options.clear();
    for (const std::string& option : split(word, ' ')) {
      if (option.empty()) continue;
      if (option[0] != '-' || !is_plain_path(option))
        bad(place, fmt::format("'{}' is not an option of apptainer exec", option), "write --bind=/folder");
      r.container_options.push_back(option);
    }
  };
}

void add_resources(Setters& setters, Resources& r) {
  add_container(setters, r);
  add_word(setters, "partition", r.partition);
  add_word(setters, "account", r.account);
  add_word(setters, "qos", r.qos);
  add_word(setters, "time", r.time);
  add_word(setters, "memory", r.memory);
  add_count(setters, "nodes", r.nodes, 1);
  add_count(setters, "tasks-per-node", r.tasks_per_node, 1);
  add_count(setters, "cpus-per-task", r.cpus_per_task, 1);
  add_count(setters, "signal-seconds", r.signal_seconds, 1);
  add_count(setters, "max-restarts", r.max_restarts, 0);
  // Several lines are one set-up; the first in a section replaces that of [chain].
  setters["setup"] = [&r, first = true](const std::string& word, const std::string&) mutable {
    r.setup = first ? word : r.setup + "\n" + word;
    first = false;
  };
  setters["sbatch-extra"] = [&r](const std::string& word, const std::string& place) {
    r.sbatch_extra.clear();
    for (const std::string& option : split(word, ' ')) {
      if (option.empty()) continue;
      if (option[0] != '-' || !is_one_line(option))
        bad(place, fmt::format("'{}' is not an sbatch option", option), "write --name=value");
      r.sbatch_extra.push_back(option);
    }
  };
}

Setters chain_setters(Chain& chain, Resources& defaults) {
  Setters setters;
  setters["run"] = [&chain](const std::string& word, const std::string& place) {
    chain.run = expand(word, place);
  };
  add_count(setters, "ranks", chain.ranks, 1);
  setters["name"] = [&chain](const std::string& word, const std::string& place) {
    if (!is_name(word) || word.size() > kLongestName)
      bad(place, fmt::format("'{}' is not a name", word),
          fmt::format("use at most {} letters, digits, '_', '-', '.'", kLongestName));
    chain.name = word;
  };
  add_resources(setters, defaults);
  return setters;
}

Setters stage_setters(Stage& stage, const Chain& chain) {
  Setters setters;
  setters["program"] = [&stage](const std::string& word, const std::string& place) {
    if (!is_one_line(word) || word.empty() || word[0] == '-')
      bad(place, fmt::format("program = '{}' is not a program", word), "name one, or its path");
    stage.program = word;
  };
  add_text(setters, "command", stage.command);
  // Long argument lists may be written over several `args` lines.
  setters["args"] = [&stage](const std::string& word, const std::string&) {
    stage.args += (stage.args.empty() ? "" : " ") + word;
  };
  setters["mpi"] = [&stage](const std::string& word, const std::string& place) {
    if (word != "true" && word != "false") bad(place, "mpi is neither true nor false", "give one of them");
    stage.mpi = word == "true";
  };
  setters["after"] = [&stage, &chain](const std::string& word, const std::string& place) {
    stage.after.clear();
    std::vector<std::string> earlier;
    for (const Stage& other : chain.stages) earlier.push_back(other.name);
    earlier.pop_back();  // the stage itself
    for (const std::string& name : ini_words(word, place)) {
      if (std::find(earlier.begin(), earlier.end(), name) == earlier.end()) {
        const std::string nearest = nearest_name(name, earlier);
        bad(place, fmt::format("after = {}: no stage of that name stands above this one", name),
            nearest.empty() ? "name an earlier stage" : "did you mean " + nearest + "?");
      }
      stage.after.push_back(name);
    }
  };
  add_resources(setters, stage.resources);
  return setters;
}

/// Several lines of these are one list; of any other setting the first would be lost.
bool is_list(const std::string& key) {
  return key == "args" || key == "setup";
}

void refuse_repeated(const std::vector<IniLine>& lines, const std::string& source) {
  std::map<std::pair<std::string, std::string>, int> first;
  for (const IniLine& line : lines) {
    const auto [at, is_new] = first.try_emplace({line.section, line.key}, line.number);
    if (!is_new && !is_list(line.key) && line.section != "variables")
      bad(fmt::format("{}:{}", source, line.number),
          fmt::format("{} stands before in line {}", line.key, at->second), "leave one of the two lines");
  }
}

void set(const Setters& setters, const IniLine& line, const std::string& place) {
  const auto it = setters.find(line.key);
  if (it == setters.end()) {
    std::vector<std::string> names;
    for (const auto& [name, setter] : setters) names.push_back(name);
    const std::string nearest = nearest_name(line.key, names);
    bad(place, fmt::format("[{}] has no setting '{}'", line.section, line.key),
        nearest.empty() ? "see dino-jobs init" : "did you mean " + nearest + "?");
  }
  it->second(ini_word(line.value, place), place);
}

void check_stage(const Stage& stage, const std::string& source) {
  if (stage.program.empty() == stage.command.empty())
    bad(source, fmt::format("[{}] needs either program or command", stage.name), "give one of the two");
  if (!stage.command.empty() && !stage.args.empty())
    bad(source, fmt::format("[{}] has a command and args", stage.name), "put the words into command");
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
    if (!known) bad(source, fmt::format("[{}] has no settings", name), "give a program or a command");
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
    bad(place, fmt::format("'{}' is not a variable's name", line.key),
        "use lower-case letters, digits and '_', and none of the stage's own names (run, stage, folder, "
        "restarts, dino_...)");
  for (const auto& [name, value] : chain.variables)
    if (name == line.key)
      bad(place, fmt::format("the variable {} is there already", name), "give it one value");
  const std::string value = ini_word(line.value, place);
  if (!is_one_line(value)) bad(place, fmt::format("{} has more than one line", line.key), "give it one");
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

Chain parse_chain(std::string_view text, const std::string& source) {
  const std::vector<IniLine> lines = read_ini(text, source, "bad chain");
  refuse_repeated(lines, source);
  Chain chain;
  chain.source = source;
  Resources defaults;
  const Setters settings = chain_setters(chain, defaults);
  const auto place_of = [&](const IniLine& line) { return fmt::format("{}:{}", source, line.number); };
  for (const IniLine& line : lines) {
    if (line.section.empty())
      bad(place_of(line), "a setting stands before the first section", "begin with [chain]");
    if (line.section == "chain") set(settings, line, place_of(line));
    if (line.section == "variables") add_variable(chain, line, place_of(line));
  }
  if (chain.run.empty()) bad(source, "[chain] has no run folder", "give run = FOLDER");
  chain.run = std::filesystem::absolute(chain.run).lexically_normal().string();
  while (chain.run.size() > 1 && chain.run.back() == '/') chain.run.pop_back();
  if (!is_plain_path(chain.run))
    bad(source, fmt::format("run = {} has a space or another special character", chain.run),
        "choose a plain path");
  if (chain.name.empty()) chain.name = std::filesystem::path(chain.run).filename().string();

  Setters setters;
  std::string section;
  chain.stages.reserve(lines.size());  // the setters point into it
  for (const IniLine& line : lines) {
    if (line.section == "chain" || line.section == "variables") continue;
    if (line.section != section) {
      section = line.section;
      if (const std::string fault = stage_name_fault(section, chain.stages); !fault.empty())
        throw UsageError(fmt::format("bad chain: {}: [{}] {}", place_of(line), section, fault));
      Stage stage;
      stage.name = section;
      stage.resources = defaults;
      // A chain is a chain: without `after`, a stage follows the one above it.
      if (!chain.stages.empty()) stage.after = {chain.stages.back().name};
      chain.stages.push_back(std::move(stage));
      setters = stage_setters(chain.stages.back(), chain);
    }
    set(setters, line, place_of(line));
  }
  refuse_empty_sections(text, source, chain);
  if (chain.stages.empty())
    bad(source, "there is no stage", "add a section such as [curate]; see dino-jobs init");
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
