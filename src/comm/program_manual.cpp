// SPDX-License-Identifier: Apache-2.0
// The man page of a program, from what its commands declare.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/text.hpp"
#include "base/version.hpp"
#include "comm/program_text.hpp"

namespace dino {
namespace {

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

const std::vector<ManualEntry>& common_environment() {
  static const std::vector<ManualEntry> entries = {
      {"DINO_CPU",
       "baseline, avx2, avx512 or avx512bf16: lowers the choice of CPU kernels. Ranks whose CPUs differ use "
       "what "
       "all of them have."},
      {"DINO_DATA", "Folder of the packages that share/datasets/fetch.sh unpacks."},
      {"DINO_MPI", "off: one process that does not start MPI, for machines that have none."},
      {"DINO_SHARE", "Folder of recipes and data set definitions."},
      {"DINO_STOP_SECONDS",
       "Seconds after a signal in which a program comes to its next point of stopping (7); after that it is "
       "ended "
       "where it is, with 75."},
      {"DINO_WATCHDOG_SECONDS", "As --watchdog-seconds, which wins."},
      {"OMP_NUM_THREADS", "Threads of a rank, unless --threads is given."},
  };
  return entries;
}

const std::vector<ManualEntry>& common_files() {
  static const std::vector<ManualEntry> entries = {
      {"share/dinohpc/recipes/*.cfg", "Recipes, which --config finds by their bare names."},
      {"share/dinohpc/datasets/*.cfg", "Definitions of the named data sets."},
      {"OUTPUT/errors/rank_N.txt", "What a rank that failed said last."},
  };
  return entries;
}

constexpr const char* kSignals =
    "USR2, USR1, TERM and INT ask for an early stop: the program ends with 75 within ten seconds (a training "
    "after its step and checkpoint), and the same command goes on near where it was. One rank that is asked "
    "stops all. Open MPI's mpirun passes USR1 and USR2 on and then ends with 75 as well. A TERM or INT that "
    "is "
    "sent to mpirun itself it turns into a TERM of the ranks and, a second later, a KILL "
    "(OMPI_MCA_odls_base_sigkill_timeout sets the seconds), and it ends with 1: what was committed until "
    "then "
    "stays.";

std::string section(const std::string& title, std::vector<ManualEntry> entries,
                    const std::vector<ManualEntry>& more) {
  entries.insert(entries.end(), more.begin(), more.end());
  std::string text = ".SH " + title + "\n";
  for (const ManualEntry& entry : entries)
    text += fmt::format(".TP\n{}\n{}\n", roff_escape(entry.name), roff_escape(entry.meaning));
  return text;
}

std::string commands_section(const ProgramSpec& spec) {
  std::string text = ".SH COMMANDS\n";
  for (const Command& command : spec.commands) {
    text +=
        fmt::format(".SS {}\n\\fB{} {}\\fR {}\n.PP\n{}\n", roff_escape(command.name), roff_escape(spec.name),
                    roff_escape(command.name), roff_escape(command.usage), roff_escape(command.summary));
    for (const std::string& paragraph : paragraphs(command.description)) {
      if (!paragraph.empty()) text += ".PP\n" + roff_escape(paragraph) + "\n";
    }
    // Common options are described once, at the end; --output where it means something of its own.
    text += table_of(command, false).roff();
    if (!command.output.empty())
      text +=
          fmt::format(".TP\n\\fB\\-\\-output\\fR \\fITEXT\\fR\n{} (required)\n", roff_escape(command.output));
  }
  return text;
}

std::string examples_section(const ProgramSpec& spec) {
  std::string text = ".SH EXAMPLES\n";
  for (const Command& command : spec.commands) {
    for (const Example& example : command.examples)
      text += fmt::format(".PP\n{}\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n",
                          roff_escape(example.purpose.empty() ? command.summary : example.purpose),
                          roff_escape(command_line(spec, command) + " " + example.words));
  }
  return text;
}

std::string see_also_section(const ProgramSpec& spec) {
  std::vector<std::string> pages = spec.see_also;
  for (const char* name : {"dino-curate", "dino-pretrain", "dino-eval", "dino-jobs"})
    if (spec.name != name) pages.push_back(fmt::format("{}(1)", name));
  std::sort(pages.begin(), pages.end());
  std::string text = ".SH SEE ALSO\n";
  for (size_t i = 0; i < pages.size(); ++i) {
    const size_t bracket = pages[i].find('(');
    text += fmt::format(".BR {} {}{}\n", roff_escape(pages[i].substr(0, bracket)), pages[i].substr(bracket),
                        i + 1 < pages.size() ? "," : "");
  }
  return text;
}

}  // namespace

std::string man_page(const ProgramSpec& spec) {
  std::string upper = spec.name;
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::string text = fmt::format(".TH {} 1 \"\" \"dinohpc {}\" \"dinohpc\"\n.SH NAME\n{} \\- {}\n", upper,
                                 version(), roff_escape(spec.name), roff_escape(spec.summary));
  text += fmt::format(".SH SYNOPSIS\n\\fB{}\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n", roff_escape(spec.name));
  text += commands_section(spec);
  CommonOptions common;
  OptionTable common_table;
  common_table.bind(common_options(), common);
  text += ".SH COMMON OPTIONS\n" + common_table.roff() + ".SH EXIT STATUS\n";
  for (const auto& [code, meaning] : kExitCodes)
    text += fmt::format(".TP\n{}\n{}\n", code, roff_escape(meaning));
  text += fmt::format(".SH SIGNALS\n{}\n", roff_escape(kSignals));
  text += section("ENVIRONMENT", common_environment(), spec.environment);
  text += section("FILES", spec.files, common_files());
  return text + examples_section(spec) + see_also_section(spec);
}

}  // namespace dino
