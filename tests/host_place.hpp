// SPDX-License-Identifier: Apache-2.0
#pragma once
// A place to compute in for tests of one process.

#include "ops/context.hpp"

namespace dino {

class HostPlace {
 public:
  explicit HostPlace(Precision precision = Precision::f32, ops::Backend& backend = ops::backend_named("cpu"))
      : place_(backend, Communicator::self(), precision) {}

 private:
  Workplace place_;

 public:
  Context& c = place_.context();
};

}  // namespace dino
