// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/context.hpp"
#include "training/engine.hpp"

namespace dino {

/// A model that steps on the host, in a place of its own.
struct HostModelPlace {
  HostModelPlace(const TrainingConfig& config, const Communicator& comm)
      : place(ops::backend_named("cpu"), comm, config.precision) {}
  Workplace place;
};
class HostModel : private HostModelPlace, public Engine {
 public:
  HostModel(const TrainingConfig& config, const Communicator& comm)
      : HostModelPlace(config, comm), Engine(config, place.context(), comm) {}
};

}  // namespace dino
