// SPDX-License-Identifier: Apache-2.0
#pragma once
// The settings of a chain file's sections.

#include <string>
#include <vector>

#include "base/options.hpp"
#include "chain.hpp"

namespace dino {

/// [chain] but for its lines that say what all stages ask for.
void read_chain_section(const std::vector<IniLine>& lines, const std::string& source, Chain& chain,
                        Resources& defaults);

/// The section of the chain's last stage, whose resources are the defaults so far.
void read_stage_section(const std::vector<IniLine>& lines, const std::string& source, Chain& chain);

/// "bad chain: PLACE: WHY; ACTION".
[[noreturn]] void bad_chain(const std::string& place, const std::string& why, const std::string& action);

/// A line of a shell script or an #SBATCH line must not become two.
[[nodiscard]] bool is_one_line(const std::string& word);

/// Letters, digits, '_', '-' and '.', at most kLongestName of them and at least one.
[[nodiscard]] bool is_chain_name(const std::string& text);
constexpr size_t kLongestName = 100;

}  // namespace dino
