// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a training begins with where it is not random: a weights reference (train --weights), or a checkpoint
// that holds nothing but weights (dino-pretrain import). The backbone's sizes are then the file's and not the
// preset's; student and teacher get the same values, the optimizer begins anew.

#include <memory>
#include <string>

#include "comm/program.hpp"
#include "model/weights.hpp"
#include "train_config.hpp"
#include "training/engine.hpp"

namespace dino::pretrain {

struct Beginning {
  std::string reference;               ///< "" = random weights
  Network which = Network::teacher;    ///< network of the reference that is taken
  std::unique_ptr<Backbone> backbone;  ///< on rank 0, until the model has it; null where a run goes on
};

/// Before anything is built: learns the backbone of the weights, or of the checkpoint that a run begun from
/// weights goes on from, and makes it the configuration's (`vit`, and the settings that say the same). So are
/// mean and deviation of the pixels, unless they were given. UsageError where the command line asks for
/// another backbone; settings of a recipe give way, and a line says so. Collective; the same on all ranks.
[[nodiscard]] Beginning settle_beginning(TrainConfig& config, const OptionTable& table,
                                         const CommandContext& context);

/// Whether a checkpoint has weights and no optimizer state, so that a run can begin with it and not go on.
[[nodiscard]] bool holds_weights_only(const std::string& checkpoint);

/// Fills student and teacher: all parameters by the seed, then those that the weights have. A checkpoint's
/// heads are taken where they have the model's sizes. RUN/run.json gets the reference and its checksum.
/// `checkpoint` is one that holds weights only, or "": what settle_beginning found. Collective.
void begin_from(Beginning& beginning, const std::string& checkpoint, const TrainConfig& config,
                Engine& engine, const CommandContext& context);

}  // namespace dino::pretrain
