// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "comm/program.hpp"

namespace dino::pretrain {

[[nodiscard]] Command train_command();
[[nodiscard]] Command replay_command();
[[nodiscard]] Command plan_command();
[[nodiscard]] Command bench_command();
[[nodiscard]] Command devices_command();
[[nodiscard]] Command inspect_command();
[[nodiscard]] Command diff_command();
[[nodiscard]] Command import_command();
[[nodiscard]] Command export_command();

}  // namespace dino::pretrain
