// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ops/context.hpp"
#include "training/ssl.hpp"

namespace dino {

/// A model that steps on the host, in a place of its own.
struct HostModelPlace {
  HostModelPlace(const SslConfig& config, const Communicator& comm)
      : place(ops::backend_named("cpu"), comm, config.precision) {}
  Workplace place;
};
class HostModel : private HostModelPlace, public SslModel {
 public:
  HostModel(const SslConfig& config, const Communicator& comm)
      : HostModelPlace(config, comm), SslModel(config, place.context(), comm) {}
};

}  // namespace dino
