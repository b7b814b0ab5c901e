// SPDX-License-Identifier: Apache-2.0
#pragma once
// A device for tests without an accelerator: another backend's operators on mapped memory.

#include <memory>
#include <tuple>

#include "base/error.hpp"
#include "comm/communicator.hpp"
#include "mapped/memory.hpp"
#include "mapped/stream.hpp"
#include "ops/context.hpp"
#include "ops/forwarding.hpp"

namespace dino::testing {

class MappedBackend final : public ops::ForwardingBackend<MappedBackend> {
 public:
  /// `inner` computes, on the host.
  MappedBackend(ops::Backend& inner, Execution execution) : inner_(inner), execution_(execution) {}
  [[nodiscard]] const char* name() const override { return "mapped"; }
  [[nodiscard]] MappedMemory& memory() override { return memory_; }
  [[nodiscard]] std::unique_ptr<Stream> new_stream() override {
    return std::make_unique<MappedStream>(memory_, execution_);
  }

 private:
  friend class ops::ForwardingBackend<MappedBackend>;
  /// Enqueues the inner operator; its arguments are opened when it runs.
  template <class... Parameters, class... Arguments>
  void run(Stream& stream, void (ops::Backend::*op)(Stream&, Parameters...), const Arguments&... arguments) {
    auto* queue = dynamic_cast<MappedStream*>(&stream);
    DINO_CHECK(queue != nullptr && &queue->memory() == &memory_, "a stream of another device");
    ((void)opened(arguments), ...);  // an error shows where it is made
    queue->enqueue([this, op, kept = std::tuple(arguments...)] {
      std::apply([&](const auto&... each) { (inner_.*op)(host_, opened(each)...); }, kept);
    });
  }
  /// Tensors are opened, settings pass.
  template <class T>
  [[nodiscard]] T opened(const T& argument) const {
    if constexpr (requires { memory_.open(argument); })
      return memory_.open(argument);
    else
      return argument;
  }

  ops::Backend& inner_;
  Execution execution_;
  MappedMemory memory_;
  HostStream host_;
};

}  // namespace dino::testing
