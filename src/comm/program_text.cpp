// SPDX-License-Identifier: Apache-2.0
#include "comm/program_text.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>

#include "base/cpu.hpp"
#include "base/text.hpp"
#include "base/version.hpp"

namespace dino {
namespace {

constexpr size_t kWidth = 80;

std::vector<std::string>& extra_version_lines() {
  static std::vector<std::string> lines;
  return lines;
}

/// A command line broken into lines of at most kWidth; what belongs together ([--name X], --name X) stays
/// together. `end` ends every line but the last, `indent` begins those after the first.
std::string broken(const std::string& first, const std::string& words, const std::string& end,
                   size_t indent) {
  std::vector<std::string> units;
  for (const std::string& word : split(words, ' ')) {
    if (word.empty()) continue;
    const bool open = !units.empty() && std::count(units.back().begin(), units.back().end(), '[') >
                                            std::count(units.back().begin(), units.back().end(), ']');
    const bool value = !units.empty() && units.back().starts_with("--") &&
                       units.back().find(' ') == std::string::npos && word[0] != '-' && word[0] != '[';
    if (open || value)
      units.back() += " " + word;
    else
      units.push_back(word);
  }
  std::string text = first, line = first;
  for (const std::string& unit : units) {
    if (line.size() + 1 + unit.size() + end.size() <= kWidth) {
      text += " " + unit;
      line += " " + unit;
    } else {
      line = std::string(indent, ' ') + unit;
      text += end + "\n" + line;
    }
  }
  return text + "\n";
}

std::string paragraph(const std::string& text) {
  std::string out;
  for (const std::string& line : wrap(text, kWidth)) out += line + "\n";
  return out;
}

std::string examples_of(const ProgramSpec& spec, const Command& command) {
  std::string text;
  for (const Example& example : command.examples) {
    if (!example.purpose.empty())
      for (const std::string& line : wrap(example.purpose, kWidth - 4)) text += "  # " + line + "\n";
    text += broken("  " + command_line(spec, command), example.words, " \\", 6);
  }
  return text;
}

/// A C function of a library that the program may or may not be linked with.
template <class F>
F* symbol(const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_DEFAULT, name));
}

std::vector<std::string> library_lines() {
  std::vector<std::string> lines;
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  lines.push_back("MPI: " + split(split(text, '\n').front(), ',').front());
  if (auto* get = symbol<int(unsigned*, unsigned*, unsigned*)>("H5get_libversion"); get != nullptr) {
    unsigned major = 0, minor = 0, release = 0;
    get(&major, &minor, &release);
    lines.push_back(fmt::format("HDF5: {}.{}.{}", major, minor, release));
  }
  struct DnnlVersion {
    int major, minor, patch;
  };
  if (auto* get = symbol<const DnnlVersion*()>("dnnl_version"); get != nullptr)
    lines.push_back(fmt::format("oneDNN: {}.{}.{}", get()->major, get()->minor, get()->patch));
  if (auto* get = symbol<const char*()>("vips_version_string"); get != nullptr)
    lines.push_back(fmt::format("libvips: {}", get()));
  if (auto* get = symbol<const char*()>("archive_version_string"); get != nullptr) lines.emplace_back(get());
  if (auto* get = symbol<const char*(int)>("OpenSSL_version"); get != nullptr) lines.emplace_back(get(0));
  if (auto* get = symbol<char*()>("openblas_get_config"); get != nullptr) lines.push_back(trim(get()));
  return lines;
}

}  // namespace

void add_version_line(std::string line) {
  extra_version_lines().push_back(std::move(line));
}

OptionTable table_of(const Command& command, bool with_common) {
  OptionTable table;
  const auto run = command.make(table);
  CommonOptions common;
  if (with_common) table.bind(common_options(command.output), common);
  return table;
}

std::vector<std::string> paragraphs(const std::string& text) {
  std::vector<std::string> result(1);
  for (const std::string& line : split(text, '\n')) {
    if (trim(line).empty()) {
      if (!result.back().empty()) result.emplace_back();
    } else {
      result.back() += (result.back().empty() ? "" : " ") + trim(line);
    }
  }
  return result;
}

std::string command_line(const ProgramSpec& spec, const Command& command) {
  return fmt::format("{}{} {}", command.uses_mpi ? "mpirun -n 4 " : "", spec.name, command.name);
}

std::string program_help(const ProgramSpec& spec) {
  std::string text = paragraph(spec.name + ": " + spec.summary);
  text += fmt::format("\nUsage: {} COMMAND [OPTIONS]\n\nCommands:\n", spec.name);
  size_t width = 0;
  for (const Command& command : spec.commands) width = std::max(width, command.name.size());
  for (const Command& command : spec.commands) {
    std::string left = fmt::format("  {:<{}}  ", command.name, width);
    for (const std::string& line : wrap(command.summary, kWidth - left.size())) {
      text += left + line + "\n";
      left.assign(left.size(), ' ');
    }
  }
  text += "\nExamples:\n";
  for (size_t i = 0; i < std::min<size_t>(spec.commands.size(), 3); ++i)
    text += examples_of(spec, spec.commands[i]);
  return text + "\n" +
         paragraph(fmt::format("{0} COMMAND --help tells all options of a command, {0} --version names the "
                               "libraries in use, {0} --man prints the man page.",
                               spec.name));
}

std::string command_help(const ProgramSpec& spec, const Command& command) {
  std::string text = paragraph(fmt::format("{} {}: {}", spec.name, command.name, command.summary));
  text += "\n" + broken(fmt::format("Usage: {} {}", spec.name, command.name), command.usage, "", 4);
  for (const std::string& words : paragraphs(command.description))
    if (!words.empty()) text += "\n" + paragraph(words);
  text += "\n" + table_of(command, true).help();
  const std::string examples = examples_of(spec, command);
  return examples.empty() ? text : text + "\nExamples:\n" + examples;
}

std::string version_text(const ProgramSpec& spec) {
  std::string text = fmt::format("{} {}\ncommit: {}\nbuild: {}, compiler {}\n", spec.name, version(),
                                 commit(), build_type(), __VERSION__);
  for (const std::string& line : library_lines()) text += line + "\n";
  for (const std::string& line : extra_version_lines()) text += line + "\n";
  return text +
         fmt::format("CPU kernels: {}{}\n", cpu_level_name(cpu_level()), cpu_has_vnni() ? ", VNNI" : "");
}

std::string completion_words(const ProgramSpec& spec, const std::vector<std::string>& words) {
  std::vector<std::string> offers;
  if (words.empty()) {
    for (const Command& command : spec.commands) offers.push_back(command.name);
    offers.insert(offers.end(), {"--help", "--version", "--man"});
  }
  for (const Command& command : spec.commands) {
    if (words.empty() || words[0] != command.name) continue;
    const OptionTable table = table_of(command, true);
    if (words.size() > 1)
      offers = table.values(words[1].substr(words[1].starts_with("--") ? 2 : 0));
    else
      for (const std::string& name : table.names()) offers.push_back("--" + name);
  }
  std::string text;
  for (const std::string& offer : offers) text += offer + "\n";
  return text;
}

}  // namespace dino
