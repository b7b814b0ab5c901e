// SPDX-License-Identifier: Apache-2.0
#pragma once
// The commands of dino-eval that are no tasks (task.hpp), one file each, and all of them.

#include "comm/program.hpp"

namespace dino::eval {

[[nodiscard]] Command features_command();
[[nodiscard]] Command align_command();
[[nodiscard]] Command fuse_command();
[[nodiscard]] Command relevance_command();
[[nodiscard]] Command sweep_command();
[[nodiscard]] Command report_command();
[[nodiscard]] Command compare_command();
[[nodiscard]] Command bench_command();

/// In the order of --help.
[[nodiscard]] std::vector<Command> all_commands();

}  // namespace dino::eval
