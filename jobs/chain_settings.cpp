// SPDX-License-Identifier: Apache-2.0
#include "chain_settings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>

#include "base/error.hpp"
#include "base/text.hpp"

namespace dino {
namespace {

constexpr double kMost = 1000000;

/// Options of another program, apart from each other by spaces.
struct OptionWords {
  std::vector<std::string> words;
  static OptionWords from_text(std::string_view text) {
    OptionWords options;
    for (const std::string& word : split(std::string(text), ' ')) {
      if (word.empty()) continue;
      if (word[0] != '-' || !is_one_line(word))
        throw std::invalid_argument(fmt::format("'{}' is not an option, such as --name=value", word));
      options.words.push_back(word);
    }
    return options;
  }
  [[nodiscard]] std::string text() const { return fmt::format("{}", fmt::join(words, " ")); }
  static const char* type_name() { return "TEXT"; }
};

/// What a section may say of Resources, as its lines give it.
struct ResourceLines {
  Resources values;
  OptionWords sbatch_extra, container_options;
  std::vector<std::string> setup;
};

Schema<ResourceLines> resource_schema() {
  using L = ResourceLines;
  using R = Resources;
  Schema<L> schema;
  schema.add("partition", &L::values, &R::partition, "Partition, as sbatch takes it.");
  schema.add("account", &L::values, &R::account, "Account.");
  schema.add("qos", &L::values, &R::qos, "Quality of service.");
  schema.add("time", &L::values, &R::time, "Time limit of a start.");
  schema.add("memory", &L::values, &R::memory, "Memory of a node.");
  schema.add("nodes", &L::values, &R::nodes, "Nodes.").range(1, kMost);
  schema.add("tasks-per-node", &L::values, &R::tasks_per_node, "Ranks of a node.").range(1, kMost);
  schema.add("cpus-per-task", &L::values, &R::cpus_per_task, "Cores of a rank.").range(1, kMost);
  schema.add("gpus-per-node", &L::values, &R::gpus_per_node, "GPUs of a node; its ranks take them in turn.")
      .range(0, kMost);
  schema
      .add("signal-seconds", &L::values, &R::signal_seconds, "A stop is asked for so long before the limit.")
      .range(1, kMost);
  schema.add("max-restarts", &L::values, &R::max_restarts, "Starts after exit code 75.").range(0, kMost);
  schema.add("sbatch-extra", &L::sbatch_extra, "Further options of sbatch.");
  schema.add("setup", &L::setup, "Shell lines before the program; several lines are one set-up.").by_line();
  schema.add("container", &L::values, &R::container, "Apptainer image that has the programs; empty: none.");
  schema.add("container-options", &L::container_options, "Further options of apptainer exec.");
  return schema;
}

struct ChainLines {
  ResourceLines resources;
  std::string name, run;
  int64_t ranks = 0;
};

Schema<ChainLines> chain_schema() {
  Schema<ChainLines> schema;
  schema.add("name", &ChainLines::name, "Name of the chain.");
  schema.add("run", &ChainLines::run, "Run folder.");
  schema.add("ranks", &ChainLines::ranks, "Ranks of dino-jobs local.").range(1, kMost);
  return schema.add(&ChainLines::resources, resource_schema());
}

struct StageLines {
  ResourceLines resources;
  std::string program, command;
  std::vector<std::string> args, after;
  bool mpi = true;
};

Schema<StageLines> stage_schema() {
  Schema<StageLines> schema;
  schema.add("program", &StageLines::program, "Program, started on every rank.");
  schema.add("args", &StageLines::args, "Its arguments; several lines are one list.").by_line();
  schema.add("command", &StageLines::command, "Shell command, instead of a program.");
  schema.add("mpi", &StageLines::mpi, "Whether the program is an MPI program.");
  schema.add("after", &StageLines::after, "Stages that must be done before.");
  return schema.add(&StageLines::resources, resource_schema());
}

/// One section's table, and where its settings stand.
struct Section {
  OptionTable table{"bad chain"};
  template <class C>
  Section(const Schema<C>& schema, C& to, const std::vector<IniLine>& lines, const std::string& source) {
    table.bind(schema, to);
    table.parse_lines(lines, source);
  }
  [[nodiscard]] bool given(const char* name) const { return table.given(name); }
  /// UsageError at the setting's line unless `holds`.
  void require(bool holds, const char* name, const std::string& why, const std::string& action) const {
    if (!holds) table.bad(name, place(name), why, action);
  }
  [[nodiscard]] std::string place(std::string_view name) const {
    for (const OptionTable::Entry& entry : table.entries())
      if (entry.option.name == name) return entry.place;
    return "";
  }
};

/// ${NAME} from the environment.
std::string expand(const Section& section, const char* setting, const std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.compare(at, 2, "${") == 0 ? text.find('}', at) : std::string::npos;
    if (end == std::string::npos) {
      out += text[at++];
      continue;
    }
    const std::string name = text.substr(at + 2, end - at - 2);
    const char* value = std::getenv(name.c_str());
    section.require(value != nullptr, setting, fmt::format("the environment has no {}", name),
                    "set it, or write the folder");
    out += value;
    at = end + 1;
  }
  return out;
}

void take_container(const Section& section, const ResourceLines& lines, Resources& to) {
  if (section.given("container")) {
    // Empty: the programs of this machine, where [chain] names a container.
    to.container = expand(section, "container", lines.values.container);
    if (!to.container.empty()) {
      to.container = std::filesystem::absolute(to.container).lexically_normal().string();
      section.require(is_plain_path(to.container), "container",
                      fmt::format("{} has a space or another special character", to.container),
                      "choose a plain path");
    }
  }
  if (!section.given("container-options")) return;
  to.container_options = lines.container_options.words;
  for (const std::string& option : to.container_options)
    section.require(is_plain_path(option), "container-options",
                    fmt::format("'{}' is not an option of apptainer exec", option), "write --bind=/folder");
}

/// What the section gives; the rest of `to` stays.
void take_resources(const Section& section, const ResourceLines& lines, Resources& to) {
  Resources kept = std::move(to);
  to = lines.values;
  to.container = kept.container;
  to.container_options = std::move(kept.container_options);
  to.sbatch_extra = section.given("sbatch-extra") ? lines.sbatch_extra.words : std::move(kept.sbatch_extra);
  to.setup = section.given("setup") ? fmt::format("{}", fmt::join(lines.setup, "\n")) : std::move(kept.setup);
  take_container(section, lines, to);
  // Values of #SBATCH lines.
  for (const auto& [name, value] :
       {std::pair("partition", &to.partition), std::pair("account", &to.account), std::pair("qos", &to.qos),
        std::pair("time", &to.time), std::pair("memory", &to.memory)})
    section.require(is_one_line(*value) && value->find_first_of(" \t\"'") == std::string::npos, name,
                    fmt::format("'{}' is more than one word", *value), "give one value");
}

void take_after(const Section& section, const std::vector<std::string>& names, Chain& chain) {
  Stage& stage = chain.stages.back();
  std::vector<std::string> earlier;
  for (const Stage& other : chain.stages) earlier.push_back(other.name);
  earlier.pop_back();  // the stage itself
  for (const std::string& name : names) {
    const std::string nearest = nearest_name(name, earlier);
    section.require(std::find(earlier.begin(), earlier.end(), name) != earlier.end(), "after",
                    fmt::format("{}: no stage of that name stands above this one", name),
                    nearest.empty() ? "name an earlier stage" : "did you mean " + nearest + "?");
  }
  stage.after = names;
}

}  // namespace

void bad_chain(const std::string& place, const std::string& why, const std::string& action) {
  throw UsageError(fmt::format("bad chain: {}: {}; {}", place, why, action));
}

bool is_one_line(const std::string& word) {
  return std::none_of(word.begin(), word.end(),
                      [](unsigned char c) { return c == 0x7f || (c < 0x20 && c != '\t'); });
}

bool is_chain_name(const std::string& text) {
  return !text.empty() && text.size() <= kLongestName && std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-' || c == '.';
  });
}

void read_chain_section(const std::vector<IniLine>& lines, const std::string& source, Chain& chain,
                        Resources& defaults) {
  ChainLines given;
  given.resources.values = defaults;
  given.ranks = chain.ranks;
  const Section section(chain_schema(), given, lines, source);
  chain.ranks = given.ranks;
  chain.run = expand(section, "run", given.run);
  section.require(!section.given("name") || is_chain_name(given.name), "name",
                  fmt::format("'{}' is not a name", given.name),
                  fmt::format("use at most {} letters, digits, '_', '-', '.'", kLongestName));
  chain.name = given.name;
  take_resources(section, given.resources, defaults);
}

void read_stage_section(const std::vector<IniLine>& lines, const std::string& source, Chain& chain) {
  Stage& stage = chain.stages.back();
  StageLines given;
  given.resources.values = stage.resources;
  const Section section(stage_schema(), given, lines, source);
  section.require(!section.given("program") ||
                      (is_one_line(given.program) && !given.program.empty() && given.program[0] != '-'),
                  "program", fmt::format("'{}' is not a program", given.program), "name one, or its path");
  stage.program = given.program;
  stage.command = given.command;
  stage.args = fmt::format("{}", fmt::join(given.args, " "));
  stage.mpi = given.mpi;
  if (section.given("after")) take_after(section, given.after, chain);
  take_resources(section, given.resources, stage.resources);
}

}  // namespace dino
