// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside comm/ only: what a program says about itself. Help is 80 columns wide.

#include <string>
#include <vector>

#include "comm/program.hpp"

namespace dino {

[[nodiscard]] std::string program_help(const ProgramSpec& spec);
[[nodiscard]] std::string command_help(const ProgramSpec& spec, const Command& command);
[[nodiscard]] std::string version_text(const ProgramSpec& spec);
[[nodiscard]] std::string man_page(const ProgramSpec& spec);  ///< roff, section 1
/// What a shell may offer, one a line: the commands, after COMMAND its options, and after COMMAND OPTION the
/// values of that option (none: file names).
[[nodiscard]] std::string completion_words(const ProgramSpec& spec, const std::vector<std::string>& words);

// Between the two files of this header.
/// The options as declared: the fields are gone, so that only defaults and texts may be read.
[[nodiscard]] OptionTable table_of(const Command& command, bool with_common);
[[nodiscard]] std::vector<std::string> paragraphs(const std::string& text);
/// How the command is started: "mpirun -n 4 dino-x name".
[[nodiscard]] std::string command_line(const ProgramSpec& spec, const Command& command);

}  // namespace dino
