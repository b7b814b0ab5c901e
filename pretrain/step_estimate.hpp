// SPDX-License-Identifier: Apache-2.0
#pragma once
// How long a step of a training that is planned takes a rank, from steps that are taken here and now.

#include <cstdint>
#include <map>
#include <string>

#include "train_config.hpp"

namespace dino::pretrain {

/// Of the first of some ranks, which has the largest share of the batch.
struct StepEstimate {
  /// Seconds by the engine's phases, and "rest".
  std::map<std::string, double> phases;
  /// The largest share of a batch and the most blocks that were timed: those of the step itself where it is
  /// short enough.
  int64_t images = 0, depth = 0;
  [[nodiscard]] double seconds() const;
  /// The same step on other ranks, which keep `share` times as much of AdamW's moments.
  [[nodiscard]] StepEstimate with_moments(double share) const;
};

/// A step of a second or two is timed as it is. A longer one is put together from the engine's steps at the
/// model's own widths, with fewer images and blocks: each further block takes as long as those between one
/// and some, each further image as long as those between few and more, and what is done once a step is
/// counted once. Takes seconds, tens of them for the largest models. UsageError where not even a block with
/// an image fits into this machine's memory. The ranks of `here` take them together. Where they are as
/// many as the training's, these are its steps, with all that the ranks send each other; else each stands for
/// the first of them, waits for the others where those would, and nothing is sent. Collective.
[[nodiscard]] StepEstimate estimate_step(const TrainConfig& config, int ranks, const Communicator& here);

/// Are the ranks of a training those that are here?
[[nodiscard]] bool all_are_here(int ranks, const Communicator& here);

/// Bytes a second that the slowest rank receives from the others when they gather. Collective.
[[nodiscard]] double gather_rate(const DeviceChoice& device, const Communicator& comm);

}  // namespace dino::pretrain
