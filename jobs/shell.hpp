// SPDX-License-Identifier: Apache-2.0
#pragma once
// Starting other programs: Slurm's commands (short, output collected) and the stages of a local chain (long,
// output passed on, signals forwarded).

#include <string>
#include <vector>

namespace dino {

struct ShellResult {
  int code = 127;  ///< exit code; 128 + signal; 127 when the program is not there
  std::string out, err;
};

/// Runs `words` with an environment without SLURM_* and SBATCH_* (SLURM_CONF stays), so that a chain that is
/// submitted from inside a job does not inherit that job's shape, and in the C locale. Killed after `seconds`
/// (code 124).
[[nodiscard]] ShellResult run_tool(const std::vector<std::string>& words, double seconds);

/// Runs a script of slurm/run.bash.in in its own process group; its output goes to stderr and is appended to
/// `log`. A stop request of this process is passed on once as SIGTERM, and so is its death. While the script
/// runs it holds a lock on `lock`, also after this process was killed; UsageError when an earlier one does.
/// Returns the exit code, or 128 + signal.
[[nodiscard]] int run_stage_script(const std::vector<std::string>& words, const std::string& log,
                                   const std::string& lock);

/// Does a script of run_stage_script hold this lock, perhaps of a dino-jobs that is gone?
[[nodiscard]] bool is_stage_running(const std::string& lock);

}  // namespace dino
