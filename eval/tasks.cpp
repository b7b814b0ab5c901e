// SPDX-License-Identifier: Apache-2.0
// The list of tasks: a line for each, whose function stands in tasks/<name>.cpp.
#include <algorithm>

#include "task.hpp"

namespace dino::eval {

// clang-format off
TaskEntry knn_task();
TaskEntry linear_task();
TaskEntry zeroshot_task();
TaskEntry imagetext_task();
TaskEntry logreg_task();
TaskEntry pca_task();
TaskEntry attention_task();
TaskEntry retrieval_task();
TaskEntry copydetect_task();
TaskEntry robust_task();
TaskEntry discover_task();
TaskEntry propagate_task();
TaskEntry video_task();
TaskEntry correspond_task();
TaskEntry coverage_task();
TaskEntry segment_task();
TaskEntry depth_task();

std::span<const TaskEntry> tasks() {
  static const std::vector<TaskEntry> all = {
      knn_task(),
      linear_task(),
      zeroshot_task(),
      imagetext_task(),
      logreg_task(),
      pca_task(),
      attention_task(),
      retrieval_task(),
      copydetect_task(),
      robust_task(),
      discover_task(),
      propagate_task(),
      video_task(),
      correspond_task(),
      coverage_task(),
      segment_task(),
      depth_task(),
  };
  return all;
}
// clang-format on

const TaskInfo* task_named(const std::string& name) {
  const auto all = tasks();
  const auto it =
      std::find_if(all.begin(), all.end(), [&](const TaskEntry& t) { return t.info.name == name; });
  return it == all.end() ? nullptr : &it->info;
}

Metric metric_of(const std::string& task, const std::string& metric) {
  if (const TaskInfo* info = task_named(task))
    for (const Metric& known : info->metrics)
      if (known.name == metric) return known;
  return {"", true, true};
}

}  // namespace dino::eval
