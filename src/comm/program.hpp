// SPDX-License-Identifier: Apache-2.0
#pragma once
// What every main.cpp does: pick the sub-command, parse its options, start MPI where the command needs it,
// run, and turn every outcome into an exit code. An exception on one rank prints rank, phase and cause,
// writes <output>/errors/rank_N.txt, and aborts the job.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/options.hpp"
#include "comm/communicator.hpp"

namespace dino {

struct CommandContext {
  Communicator& world;
  CommonOptions common;
  std::string program;     ///< "dino-curate"
  std::string command;     ///< "dedup"
  std::string config_ini;  ///< all settings in force (OptionTable::to_ini)
  std::vector<std::string> argv;
  /// One JSON object, set on rank 0: what --json prints, after success and failure alike. Empty after success
  /// (a dry run, say): the name of the command and its exit code are printed.
  std::string result{};
  /// The command has printed its result itself, piece by piece, as it is too large for one text.
  bool printed = false;
};

/// One real command line, for --help and the man page: tests parse each of them.
struct Example {
  std::string words;  ///< after the name of the command
  std::string purpose{};
};

/// One sub-command. `make` builds a fresh config struct bound to the table and returns what runs it
/// (with_options below); it is called once per process (also for --help and man pages, so it must not touch
/// anything).
struct Command {
  std::string name;
  std::string summary;  ///< one line for the list of commands
  std::string usage;    ///< the words after the name, e.g. "--embeddings E --threshold 0.95 --output OUT"
  std::string
      description;       ///< paragraphs for --help and the man page: what it reads, writes, and when it fails
  bool uses_mpi = true;  ///< false: never initialises MPI (works on a login node)
  std::function<std::function<ExitCode(CommandContext&)>(OptionTable&)> make;
  std::string output{};  ///< what --output names, which is then required ("Folder of the results.")
  std::vector<Example> examples{};
};

/// Processes that a launcher (mpirun, srun) started with this one, before MPI is up; 1 where none says so.
[[nodiscard]] int launched_ranks();

/// Command::make of a command whose options are those of a schema: `run` gets the parsed struct.
template <class C, class Run>
[[nodiscard]] auto with_options(Schema<C> schema, Run run, C defaults = {}) {
  return [schema = std::move(schema), run = std::move(run),
          defaults = std::move(defaults)](OptionTable& table) -> std::function<ExitCode(CommandContext&)> {
    auto config = std::make_shared<C>(defaults);
    table.bind(schema, *config);
    return [config, run](CommandContext& context) { return run(*config, context); };
  };
}

/// A file or a variable of the environment, in the man page.
struct ManualEntry {
  std::string name, meaning;
};

struct ProgramSpec {
  std::string name;  ///< "dino-curate"
  std::string summary;
  std::vector<Command> commands;
  std::vector<ManualEntry> files{}, environment{};  ///< of this program, beside those of all
  std::vector<std::string> see_also{};              ///< beside the other programs: "mpirun(1)"
};

/// Adds a line to --version; call it before run_program.
void add_version_line(std::string line);

/// Threads this rank should use: --threads, else OMP_NUM_THREADS, else the cores that this rank may run on
/// divided by the ranks of the node that share them. run_program has already told OpenMP.
[[nodiscard]] int resolve_threads(const CommandContext& context);

/// Returns the exit code for main. --help, --version, --man (roff to stdout), and --complete (names for the
/// bash completion) are handled here.
int run_program(const ProgramSpec& spec, int argc, char** argv);

}  // namespace dino
