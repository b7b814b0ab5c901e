// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which settings each stage of `run` reads. A stage is done again when one of them has another value than
// when it was done, or when a stage before it is done again; the others keep their results.

#include <string>
#include <string_view>
#include <vector>

#include "config.hpp"

namespace dino::curation {

/// What the stage reads of these settings, with its value. A setting that another one switches off is left
/// out: --levels without a --target, say. The last stage, report, reads all: its manifest has their hash.
[[nodiscard]] std::vector<Setting> stage_settings(const CurateConfig& config, std::string_view stage);
/// The same as one text, for hashes.
[[nodiscard]] std::string stage_settings_text(const CurateConfig& config, std::string_view stage);
/// "target 100 -> 200", "rule star -> components"; settings that only one side has are told only where no
/// other differs. Empty when they are equal.
[[nodiscard]] std::vector<std::string> describe_change(const std::vector<Setting>& before,
                                                       const std::vector<Setting>& now);

}  // namespace dino::curation
