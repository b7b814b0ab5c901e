// SPDX-License-Identifier: Apache-2.0
#pragma once
// A chain file: an INI file with a [chain] section, one of [variables] where it has any, and one section per
// stage, in the order in which they run.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dino {

/// What a stage asks of Slurm. [chain] gives the values for all stages; a stage's own win.
struct Resources {
  std::string partition, account, qos, time, memory;  ///< as sbatch takes them; empty = the site's default
  int64_t nodes = 1;
  int64_t tasks_per_node = 1;
  int64_t cpus_per_task = 1;
  int64_t gpus_per_node = 0;              ///< all of them seen by each rank of the node, which takes one
  std::vector<std::string> sbatch_extra;  ///< further sbatch options, one a word
  int64_t signal_seconds = 180;           ///< USR2 comes this long before the time limit
  int64_t max_restarts = 20;              ///< starts again after exit code 75, at most
  std::string setup;                      ///< shell lines before the program, e.g. "module load openmpi"
  std::string container;  ///< absolute path of an Apptainer image that has the programs; or empty
  std::vector<std::string> container_options;  ///< further options of apptainer exec, one a word
};

struct Stage {
  std::string name;
  std::string program;  ///< started on every rank; `args` follow it
  std::string args;
  std::string command;             ///< instead of program: one shell command, started once, without MPI
  std::vector<std::string> after;  ///< stages that must be done before
  bool mpi = true;                 ///< false: `program` is started once
  Resources resources;
};

struct Chain {
  std::string source;  ///< the chain file, for messages
  std::string name;
  std::string run;    ///< absolute path of the run folder
  int64_t ranks = 2;  ///< of `local`
  /// ${name} in args and commands, in the file's order.
  std::vector<std::pair<std::string, std::string>> variables;
  std::vector<Stage> stages;
};

/// Throws UsageError that names the line. A relative run folder is below the current folder.
[[nodiscard]] Chain parse_chain(std::string_view text, const std::string& source);
[[nodiscard]] Chain read_chain(const std::string& path);

/// Without spaces and other characters that mean something to bash or sbatch.
[[nodiscard]] bool is_plain_path(const std::string& path);

/// `program` beside dino-jobs, where it is there; else as it stands, for the shell to find.
[[nodiscard]] std::string program_path(const std::string& program);

/// The folder of the running dino-jobs; stages have it first on their PATH.
[[nodiscard]] std::string programs_folder();

}  // namespace dino
