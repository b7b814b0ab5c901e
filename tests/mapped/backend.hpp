// SPDX-License-Identifier: Apache-2.0
#pragma once
// A device for tests without an accelerator: another backend's operators on mapped memory.

#include <memory>

#include "comm/communicator.hpp"
#include "mapped/memory.hpp"
#include "mapped/stream.hpp"
#include "ops/context.hpp"
#include "ops/overrides.hpp"

namespace dino::testing {

class MappedBackend final : public ops::Backend {
 public:
  using Activation = ops::Activation;
  using Sequences = ops::Sequences;
  using SparseRows = ops::SparseRows;
  /// `inner` computes, on the host.
  MappedBackend(ops::Backend& inner, Execution execution) : inner_(inner), execution_(execution) {}
  [[nodiscard]] const char* name() const override { return "mapped"; }
  [[nodiscard]] MappedMemory& memory() override { return memory_; }
  [[nodiscard]] std::unique_ptr<Stream> new_stream() override {
    return std::make_unique<MappedStream>(memory_, execution_);
  }
  DINO_OPS_OVERRIDES;

 private:
  /// Enqueues the inner operator; its arguments are opened when it runs.
  template <class... Parameters, class... Arguments>
  void run(Stream& stream, void (ops::Backend::*op)(Stream&, Parameters...), const Arguments&... arguments);

  ops::Backend& inner_;
  Execution execution_;
  MappedMemory memory_;
  HostStream host_;
};

}  // namespace dino::testing
