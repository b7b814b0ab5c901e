// SPDX-License-Identifier: Apache-2.0
#pragma once
// The commands of dino-jobs.

#include <cstdint>
#include <string>

#include "chain.hpp"
#include "comm/program.hpp"

namespace dino {

[[nodiscard]] Command init_command();
[[nodiscard]] Command render_command();
[[nodiscard]] Command submit_command();
[[nodiscard]] Command status_command();
[[nodiscard]] Command local_command();

/// RUN/chain.json: what was submitted. `job` is empty where nothing was.
struct ChainState {
  struct Entry {
    std::string stage, job, script;
  };
  std::string name, run, chain_file, submitted;
  std::vector<Entry> stages;
};
void write_state(const ChainState& state);
/// Throws MissingInputError when RUN has none, DataError when it is broken.
[[nodiscard]] ChainState read_state(const std::string& run);
[[nodiscard]] bool has_state(const std::string& run);

/// What Slurm says about a job, e.g. "RUNNING", "PENDING", or empty when it does not know it or is not there.
struct JobHint {
  std::string state, reason;
};
[[nodiscard]] JobHint ask_slurm(const std::string& job);
[[nodiscard]] bool is_live(const JobHint& hint);
/// Throws UsageError when Slurm still has a job of an unfinished stage: a second one would write the same
/// files.
void refuse_live_stages(const std::string& run);

}  // namespace dino
