// SPDX-License-Identifier: Apache-2.0
#include "redo.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <ranges>

#include "base/error.hpp"
#include "stage_settings.hpp"
#include "storage/files.hpp"

namespace dino::curation {

std::string Redo::text() const {
  std::vector<std::string> names;
  for (const StageEntry* stage : stages) names.emplace_back(stage->name);
  return fmt::format("{}: redoing {}", fmt::join(why, ", "), fmt::join(names, ", "));
}

Redo plan_redo(const std::string& out, const CurateConfig& config) {
  Redo redo;
  for (const StageEntry& stage : stage_entries()) {
    const auto marker = read_marker(out, stage.name);
    if (!marker) continue;
    const auto changes = describe_change(marker->settings, stage_settings(config, stage.name));
    // The last stage has all settings: what another one has told it need not repeat.
    if (&stage != &stage_entries().back() || redo.why.empty()) {
      for (const std::string& change : changes)
        if (std::find(redo.why.begin(), redo.why.end(), change) == redo.why.end()) redo.why.push_back(change);
    }
    if (!changes.empty() || !redo.stages.empty()) redo.stages.push_back(&stage);
  }
  return redo;
}

void take_back(const std::string& out, const Redo& redo) {
  for (const StageEntry* stage : redo.stages | std::views::reverse) {
    std::filesystem::remove(fmt::format("{}/stages/{}.json", out, stage->name));
    fsync_folder(out + "/stages");
    remove_outputs(out, *stage);
    if (stage->run == export_stage) {
      std::error_code ignored;
      std::filesystem::remove_all(out + "/work/export", ignored);
      remove_shards(out);
    }
  }
}

void check_settings_file(const std::string& out, const CurateConfig& known, const std::string& path) {
  const Redo redo = plan_redo(out, known);
  if (redo.stages.empty()) return;
  throw DataError(fmt::format(
      "damaged file: {}: {} was done with other settings: {}; put the file back, or delete it and run again",
      path, redo.stages.front()->name, fmt::join(redo.why, ", ")));
}

}  // namespace dino::curation
