// SPDX-License-Identifier: Apache-2.0
#pragma once
// A task as the driver runs it, in one call.

#include <algorithm>
#include <string>
#include <vector>

#include "driver.hpp"

namespace dino::eval {

struct TaskCall {
  std::string task;
  std::vector<std::string> inputs;   ///< in the order of TaskInfo::inputs
  std::vector<std::string> words{};  ///< of the task's own options
  bool in_sweep = false;             ///< those that it has there
  TaskOptions options{};
};

/// The rows, as JSON lines.
inline std::vector<std::string> call(const TaskCall& wanted, const std::string& output,
                                     const Communicator& world = Communicator::self()) {
  const auto all = tasks();
  const TaskEntry& entry = *std::find_if(
      all.begin(), all.end(), [&](const TaskEntry& known) { return known.info.name == wanted.task; });
  const auto task = entry.make();
  OptionTable table;
  if (wanted.in_sweep)
    task->sweep_options(table);
  else
    task->options(table);
  table.parse(wanted.words);
  TaskOptions options = wanted.options;
  for (size_t i = 0; i < wanted.inputs.size(); ++i) options.source(i).reference = wanted.inputs[i];
  Shared shared;
  return run_task(entry, *task, options, {world, shared, output, 0}).rows;
}

}  // namespace dino::eval
