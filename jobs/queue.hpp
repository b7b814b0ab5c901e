// SPDX-License-Identifier: Apache-2.0
#pragma once
// What Slurm knows of a chain's jobs. It is asked by the jobs' names: then those count too that chain.json
// does not know, because dino-jobs died between two sbatch calls, or a stage submitted itself anew.

#include <map>
#include <string>
#include <vector>

#include "commands.hpp"

namespace dino {

struct QueuedJob {
  std::string id, state, reason, name;  ///< as squeue writes them, e.g. "101", "PENDING", "JobHeldUser"
};
/// Waiting or running.
[[nodiscard]] bool is_live(const QueuedJob& job);

struct QueueAnswer {
  bool installed = true;
  bool answered = true;
  std::string why;  ///< squeue's words when it did not answer
  std::vector<QueuedJob> jobs;
};
/// One call of squeue for all these names; jobs that ended a short while ago are among the answers.
[[nodiscard]] QueueAnswer ask_queue(const std::vector<std::string>& names);
/// One job by its number.
[[nodiscard]] QueueAnswer ask_queue_for(const std::string& job);

/// One call of sacct: how jobs ended. Empty where accounting is off.
[[nodiscard]] std::map<std::string, std::string> ask_accounts(const std::vector<std::string>& jobs);

/// Seconds that Slurm's commands have: DINO_SLURM_TIMEOUT, or as given.
[[nodiscard]] double slurm_seconds(double otherwise);

/// Where it is told which stages of a run may not be started: the jobs that Slurm still has of those that are
/// not done, by stage. `names` are further names of their jobs. Throws IoError when Slurm does not answer: a
/// second job would write the same files.
using StageJobs = std::map<std::string, std::vector<QueuedJob>>;
[[nodiscard]] StageJobs live_jobs(const ChainState& known, const std::map<std::string, std::string>& names);

/// UsageError that names the jobs.
[[noreturn]] void refuse_live(const std::string& run, const StageJobs& live);

}  // namespace dino
