// SPDX-License-Identifier: Apache-2.0
#include "ops/device_option.hpp"

#include <fmt/format.h>

#include "base/log.hpp"
#include "comm/program.hpp"
#include "comm/together.hpp"
#include "ops/accelerator.hpp"

namespace dino {
namespace {

/// Once for a process, and not where the build leaves no choice.
void say(const std::string& what) {
  static bool said = false;
  if (!said && !ops::describe_gpu_libraries().empty()) log::info("computes on " + what);
  said = true;
}

/// They compute what they would alone, one after the other.
void say_shared(int ranks, int gpus) {
  static bool said = false;
  if (!said)
    log::info(
        fmt::format("{} ranks of this machine share {} GPU{}: one rank for each is faster, and needs less of "
                    "their memory",
                    ranks, gpus, gpus == 1 ? "" : "s"));
  said = true;
}

}  // namespace

ops::Backend& settle_device(DeviceChoice& choice, const Communicator& comm) {
  if (!choice.is_auto() && choice.value() == Device::Kind::cpu) return backend_of(choice);
  ops::choose_gpu(rank_on_node(comm));
  const bool has_gpu = ops::gpu_backend() != nullptr;
  if (choice.is_auto()) {
    const bool some_have_none = comm.any(!has_gpu);
    choice = some_have_none ? Device::Kind::cpu : Device::Kind::cuda;
    if (some_have_none) say("the CPU: " + (has_gpu ? "not every rank has a GPU" : ops::why_no_gpu()));
  } else {
    together(comm, [&] {
      if (!has_gpu)
        throw UsageError(
            fmt::format("no GPU: --device cuda: {}; use --device cpu, or auto", ops::why_no_gpu()));
    });
  }
  if (choice.value() == Device::Kind::cuda) {
    say(ops::describe_gpu());
    const int ranks = ranks_of_node(comm);
    if (ranks > ops::gpu_count()) say_shared(ranks, ops::gpu_count());
  }
  return backend_of(choice);
}

void add_gpu_version_line() {
  const std::string libraries = ops::describe_gpu_libraries();
  if (!libraries.empty()) add_version_line("GPU: " + libraries);
}

Device::Kind kind_of(const DeviceChoice& choice) {
  return choice.is_auto() ? Device::Kind::cpu : choice.value();
}

ops::Backend& backend_of(const DeviceChoice& choice) {
  return ops::backend_named(name_of(kind_of(choice)));
}

}  // namespace dino
