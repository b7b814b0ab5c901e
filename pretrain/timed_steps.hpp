// SPDX-License-Identifier: Apache-2.0
#pragma once
// Real training steps on random crops, timed: for bench, and for what train expects of a run.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "data_loader.hpp"
#include "parallel/parameter_state.hpp"
#include "tensor/tensor.hpp"
#include "train_config.hpp"

namespace dino::pretrain {

void fill_normal(TensorView view, uint64_t index);

struct Timings {
  std::vector<double> seconds;           ///< of each timed step
  std::map<std::string, double> phases;  ///< means
  int64_t arena_bytes = 0;
  int64_t device_used_bytes = 0;  ///< of the GPU after the last step, which gives nothing back before
  StateBytes state;               ///< as it is held
  int64_t allocated_bytes = 0;    ///< by all tensors in the timed steps
  int64_t page_faults = 0;        ///< of the process in the timed steps
  double loss = 0;
  bool finite = true;  ///< of all losses and gradients, but for those that lowered a loss scale
};

/// `warmup` steps, then `steps` timed ones, of config.batch images over all ranks: of noise, or of what a
/// loader brings, whose work beside the steps is then timed too. All are steps in which the backbone learns,
/// also where the run begins with a frozen one. Collective. Ends with exit code 75 when a stop is asked for.
[[nodiscard]] Timings time_steps(const TrainConfig& config, const Communicator& comm, int64_t warmup,
                                 int64_t steps, DataLoader* loader = nullptr);

/// The same of the first of `ranks` ranks that are not there: all but the time on a network. Each rank of
/// `here` takes them, in step with the others. Collective over `here`.
[[nodiscard]] Timings time_steps_of_first(const TrainConfig& config, int ranks, const Communicator& here,
                                          int64_t warmup, int64_t steps);

}  // namespace dino::pretrain
