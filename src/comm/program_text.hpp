// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside comm/ only: what a program says about itself.

#include <string>

#include "comm/program.hpp"

namespace dino {

[[nodiscard]] std::string program_help(const ProgramSpec& spec);
[[nodiscard]] std::string command_help(const ProgramSpec& spec, const Command& command);
[[nodiscard]] std::string version_text(const ProgramSpec& spec);
[[nodiscard]] std::string man_page(const ProgramSpec& spec);  ///< roff, section 1
/// The commands, or the options of one command, one a line.
[[nodiscard]] std::string completion_words(const ProgramSpec& spec, const std::string& command);

}  // namespace dino
