// SPDX-License-Identifier: Apache-2.0
#pragma once
// A start with other settings than OUT was begun with: which stages it does again, and why. Rank 0 only.

#include <string>
#include <vector>

#include "pipeline.hpp"

namespace dino::curation {

struct Redo {
  std::vector<const StageEntry*> stages;  ///< complete ones that read a changed setting or come after one
  std::vector<std::string> why;           ///< "target 100 -> 200"
  /// "target 100 -> 200: redoing balance, export, report"
  [[nodiscard]] std::string text() const;
};
[[nodiscard]] Redo plan_redo(const std::string& out, const CurateConfig& config);

/// Takes the results of these stages away, the last first, and of each the marker before its files: a run
/// that is killed here leaves stages that are complete and files that the next start removes.
void take_back(const std::string& out, const Redo& redo);

/// DataError when a complete stage was done with other settings than OUT/curate.ini says: take_back comes
/// before that file is written, so that somebody else changed it.
void check_settings_file(const std::string& out, const CurateConfig& known, const std::string& path);

}  // namespace dino::curation
