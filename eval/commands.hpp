// SPDX-License-Identifier: Apache-2.0
#pragma once
// The commands of dino-eval, one file each.

#include "comm/program.hpp"

namespace dino::eval {

[[nodiscard]] Command features_command();
[[nodiscard]] Command knn_command();
[[nodiscard]] Command linear_command();
[[nodiscard]] Command segment_command();
[[nodiscard]] Command pca_command();
[[nodiscard]] Command attention_command();
[[nodiscard]] Command sweep_command();
[[nodiscard]] Command report_command();
[[nodiscard]] Command bench_command();

}  // namespace dino::eval
