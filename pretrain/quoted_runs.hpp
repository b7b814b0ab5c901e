// SPDX-License-Identifier: Apache-2.0
#pragma once
// What published trainings are said to have reached, for a plan to be held against.

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "step_shape.hpp"

namespace dino::pretrain {

struct QuotedRun {
  const char *name, *hardware, *source;
  double images_per_second;  ///< of a GPU
  double tflops;             ///< of a GPU in useful operations; 0: not quoted
  StepShape shape;           ///< by which operations are counted
};

[[nodiscard]] std::span<const QuotedRun> quoted_runs();
/// Images per second of a GPU at the quoted rate, as plan counts operations; 0 without one.
[[nodiscard]] double counted_images_per_second(const QuotedRun& run);
[[nodiscard]] nlohmann::ordered_json quoted_rows();
/// Lines for people.
[[nodiscard]] std::string quoted_text();

}  // namespace dino::pretrain
