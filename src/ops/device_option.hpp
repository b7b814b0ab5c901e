// SPDX-License-Identifier: Apache-2.0
#pragma once
// --device: what computes.

#include "base/auto_setting.hpp"
#include "base/names.hpp"
#include "base/options.hpp"
#include "comm/communicator.hpp"
#include "ops/ops.hpp"

namespace dino {

constexpr auto names_of(Device::Kind) {
  return std::to_array<Named<Device::Kind>>({{"cpu", Device::Kind::cpu}, {"cuda", Device::Kind::cuda}});
}

/// auto: a GPU where every rank has one, else the CPU.
using DeviceChoice = Auto<Device::Kind>;

template <class C>
void add_device(Schema<C>& schema, DeviceChoice C::*member) {
  schema.add(
      "device", member,
      "What computes; auto: an NVIDIA GPU for every rank where there is one, else the CPU. The ranks of "
      "a machine take its GPUs in turn.");
}

/// Makes the choice if it is open, takes this rank's GPU, and says what computes where there was something to
/// choose. UsageError, the same on all ranks, where there is no GPU for --device cuda. Collective.
ops::Backend& settle_device(DeviceChoice& choice, const Communicator& comm);
/// The CPU while the choice is open.
[[nodiscard]] Device::Kind kind_of(const DeviceChoice& choice);
[[nodiscard]] ops::Backend& backend_of(const DeviceChoice& choice);

/// Adds the GPU's libraries to --version, where the build has any.
void add_gpu_version_line();

}  // namespace dino
