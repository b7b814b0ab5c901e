// SPDX-License-Identifier: Apache-2.0
#pragma once
// The settings that a user did not give, chosen from the number and the size of the images and from the
// machine. A pure function: the same facts give the same settings. Only the number of steps follows from a
// time that was measured, and RUN/config.ini then keeps it for every later start of the run.

#include <cstdint>
#include <string>

#include "base/cpu.hpp"
#include "train_config.hpp"

namespace dino::pretrain {

struct ImageFacts {
  int64_t count = 0;
  int64_t short_side = 0, long_side = 0;  ///< medians in pixels
};

struct MachineFacts {
  int ranks = 1;
  int64_t cores = 1;        ///< that all ranks compute on
  int64_t memory = 0;       ///< bytes that a rank may use
  double core_gflops = 30;  ///< nominal_core_gflops
};

/// What a core does in a training step, roughly: by the instructions it has, so that the choice does not
/// depend on how busy the machine is.
[[nodiscard]] double nominal_core_gflops(CpuLevel level, Precision precision);

/// Chooses everything that is still `auto`, but steps and checkpoint-every. What is given is kept and
/// constrains the rest: crops become multiples of a given patch, a given model keeps its patch. With
/// `config.vit` the model is that one.
void choose_settings(TrainConfig& config, const ImageFacts& images, const MachineFacts& machine);
/// Seconds of a step as the nominal rate has it.
[[nodiscard]] double nominal_step_seconds(const TrainConfig& config, const MachineFacts& machine);
/// Chooses steps (what --minutes allow at `step_seconds`, at least kLeastSteps, at most kMostPasses over the
/// images) and what follows from them.
void choose_steps(TrainConfig& config, const ImageFacts& images, double step_seconds);
constexpr int64_t kLeastSteps = 100;
constexpr int64_t kMostPasses = 200;

/// The published values for everything that is still `auto` but steps (bench, tests).
void choose_published(TrainConfig& config);

}  // namespace dino::pretrain
