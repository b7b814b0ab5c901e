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
[[nodiscard]] Command doctor_command();

/// RUN/chain.json: what was submitted. Of `local`, `job` and `name` are empty.
struct ChainState {
  struct Entry {
    std::string stage, job, script;
    std::string name;  ///< of the job
  };
  std::string name, run, chain_file, submitted;
  std::vector<Entry> stages;
  /// False between the first sbatch and the release of the jobs, which are on hold until all are in.
  bool released = true;
};
void write_state(const ChainState& state);
/// Throws MissingInputError when RUN has none, DataError when it is broken.
[[nodiscard]] ChainState read_state(const std::string& run);
[[nodiscard]] bool has_state(const std::string& run);

}  // namespace dino
