// SPDX-License-Identifier: Apache-2.0
#include "comm/program_text.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <cctype>

#include "base/cpu.hpp"
#include "base/text.hpp"
#include "base/version.hpp"

namespace dino {
namespace {

constexpr size_t kWidth = 100;

constexpr const char* kExitCodes[][2] = {
    {"0", "done"},
    {"1", "the two sides differ (diff and compare only)"},
    {"64", "bad command line or recipe"},
    {"65", "an input is not what it claims to be"},
    {"66", "an input does not exist or cannot be read"},
    {"70", "a defect of dinohpc"},
    {"74", "reading, writing or memory failed"},
    {"75", "stopped early by request; start again to go on"},
    {"76", "training diverged"},
    {"77", "an upstream stage is not complete"},
    {"128+N", "the launcher's, when a rank was killed by signal N (137: SIGKILL, often for want of memory)"},
};

std::vector<std::string>& extra_version_lines() {
  static std::vector<std::string> lines;
  return lines;
}

/// The closure that `make` returns owns the fields, and dies here: texts read only the declared defaults.
OptionTable table_of(const Command& command, bool with_common) {
  OptionTable table;
  const auto run = command.make(table);
  CommonOptions common;
  if (with_common) add_common_options(table, common);
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

std::string example(const ProgramSpec& spec, const Command& command) {
  return fmt::format("{}{} {} {}", command.uses_mpi ? "mpirun -n 4 " : "", spec.name, command.name,
                     command.usage);
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

std::string program_help(const ProgramSpec& spec) {
  std::string text =
      fmt::format("{}: {}\n\nUsage: {} COMMAND [OPTIONS]\n\nCommands:\n", spec.name, spec.summary, spec.name);
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
    text += "  " + example(spec, spec.commands[i]) + "\n";
  text += fmt::format(
      "  {} COMMAND --help\n\n{} --version names the libraries in use, --man prints the man page.\n",
      spec.name, spec.name);
  return text;
}

std::string command_help(const ProgramSpec& spec, const Command& command) {
  std::string text = fmt::format("{} {}: {}\n\nUsage: {} {} {}\n", spec.name, command.name, command.summary,
                                 spec.name, command.name, command.usage);
  for (const std::string& paragraph : paragraphs(command.description)) {
    if (paragraph.empty()) continue;
    text += "\n";
    for (const std::string& line : wrap(paragraph, kWidth)) text += line + "\n";
  }
  return text + fmt::format("\n{}\nExample:\n  {}\n", table_of(command, true).help(), example(spec, command));
}

std::string version_text(const ProgramSpec& spec) {
  std::string text = fmt::format("{} {}\ncommit: {}\nbuild: {}, compiler {}\n", spec.name, version(),
                                 commit(), build_type(), __VERSION__);
  for (const std::string& line : library_lines()) text += line + "\n";
  for (const std::string& line : extra_version_lines()) text += line + "\n";
  return text +
         fmt::format("CPU kernels: {}{}\n", cpu_level_name(cpu_level()), cpu_has_vnni() ? ", VNNI" : "");
}

std::string man_page(const ProgramSpec& spec) {
  std::string upper = spec.name;
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::string text = fmt::format(".TH {} 1 \"\" \"dinohpc {}\" \"dinohpc\"\n.SH NAME\n{} \\- {}\n", upper,
                                 version(), roff_escape(spec.name), roff_escape(spec.summary));
  text += fmt::format(".SH SYNOPSIS\n\\fB{}\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.SH COMMANDS\n",
                      roff_escape(spec.name));
  for (const Command& command : spec.commands) {
    text +=
        fmt::format(".SS {}\n\\fB{} {}\\fR {}\n.PP\n{}\n", roff_escape(command.name), roff_escape(spec.name),
                    roff_escape(command.name), roff_escape(command.usage), roff_escape(command.summary));
    for (const std::string& paragraph : paragraphs(command.description)) {
      if (!paragraph.empty()) text += ".PP\n" + roff_escape(paragraph) + "\n";
    }
    // Common options are described once, at the end.
    text += table_of(command, false).roff();
  }
  OptionTable common_table;
  CommonOptions common;
  add_common_options(common_table, common);
  text += ".SH COMMON OPTIONS\n" + common_table.roff() + ".SH EXIT STATUS\n";
  for (const auto& [code, meaning] : kExitCodes)
    text += fmt::format(".TP\n{}\n{}\n", code, roff_escape(meaning));
  text +=
      ".SH SIGNALS\nUSR2, USR1, TERM and INT ask for an early stop: the program ends with 75 within ten "
      "seconds "
      "(a training after its step and checkpoint), and the same command goes on near where it was. One rank "
      "that "
      "is asked stops all. Open MPI's mpirun passes USR1 and USR2 on and then ends with 75 as well. A TERM "
      "or INT "
      "that is sent to mpirun itself it turns into a TERM of the ranks and, a second later, a KILL "
      "(OMPI_MCA_odls_base_sigkill_timeout sets the seconds), and it ends with 1: what was committed until "
      "then "
      "stays.\n"
      ".SH ENVIRONMENT\n.TP\nDINO_CPU\nbaseline, avx2, avx512 or avx512bf16: lowers the choice of CPU "
      "kernels. Ranks whose CPUs differ use what all of them have.\n"
      ".TP\nDINO_SHARE\nFolder of recipes and data set definitions.\n"
      ".TP\nDINO_STOP_SECONDS\nSeconds after a signal in which a program comes to its next point of stopping "
      "(7); "
      "after that it is ended where it is, with 75.\n"
      ".TP\nDINO_WATCHDOG_SECONDS\nAs \\-\\-watchdog\\-seconds, which wins.\n"
      ".TP\nOMP_NUM_THREADS\nThreads of a rank, unless \\-\\-threads is given.\n";
  return text;
}

std::string completion_words(const ProgramSpec& spec, const std::string& name) {
  std::string text;
  for (const Command& command : spec.commands) {
    if (name.empty()) text += command.name + "\n";
    if (name != command.name) continue;
    for (const std::string& option : table_of(command, true).names()) text += "--" + option + "\n";
  }
  if (name.empty()) text += "--help\n--version\n--man\n";
  return text;
}

}  // namespace dino
