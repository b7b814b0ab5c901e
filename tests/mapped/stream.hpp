// SPDX-License-Identifier: Apache-2.0
#pragma once
// A queue of work on mapped memory.

#include <functional>
#include <memory>

#include "mapped/memory.hpp"
#include "tensor/device.hpp"

namespace dino::testing {

/// Both are right for a device. `at_once`: done when the call returns. `late`: as late as a stream's contract
/// allows, when somebody synchronizes with it; what nobody waits for is never done. Work is checked when it
/// is enqueued and again when it runs: memory that is released before is found.
enum class Execution : uint8_t { at_once, late };
[[nodiscard]] inline const char* name_of(Execution execution) {
  return execution == Execution::late ? "late" : "at_once";
}

class MappedStream final : public Stream {
 public:
  MappedStream(const MappedMemory& memory, Execution execution);
  [[nodiscard]] Device device() const override { return memory_.device(); }
  [[nodiscard]] Event record() override;
  void wait(const Event& event) override;
  void synchronize() override;
  void copy_bytes(DeviceBytes to, DeviceBytes from, size_t bytes) override;
  void fill_elements(DeviceBytes to, std::span<const std::byte> element, size_t count) override;

  [[nodiscard]] const MappedMemory& memory() const { return memory_; }
  void enqueue(std::function<void()> work);

 private:
  class Queue;
  class Mark;
  const MappedMemory& memory_;
  Execution execution_;
  std::shared_ptr<Queue> queue_;  ///< shared with the events
};

}  // namespace dino::testing
