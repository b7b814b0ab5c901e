// SPDX-License-Identifier: Apache-2.0
#pragma once
// Runs tasks: their commands, and what `sweep` shares with them. A task computes; locks, dry runs, what is
// there already, rows, predictions, floors and --json are the driver's.

#include <string>
#include <vector>

#include "task.hpp"

namespace dino::eval {

/// The command of a task.
[[nodiscard]] Command task_command(const TaskEntry& entry);

/// What RESULTS holds after a task.
struct TaskResult {
  std::vector<std::string> rows;  ///< JSON lines, of the root: those that were there and those that are new
  std::string json;               ///< TaskRun::json
};
/// Where tasks run.
struct TaskPlace {
  const Communicator& world;
  Shared& shared;
  std::string output;  ///< RESULTS
  int64_t seed = 0;
};
/// Plans the task, computes what RESULTS lacks (all with options.force) and appends it to results.jsonl; with
/// options.floors the same for raw pixels and fresh weights, on the input that the model had. Collective.
[[nodiscard]] TaskResult run_task(const TaskEntry& entry, Task& task, const TaskOptions& options,
                                  const TaskPlace& place);

}  // namespace dino::eval
