// SPDX-License-Identifier: Apache-2.0
#pragma once
// A device that computes nothing and has no bytes: what runs on it allocates as it would on any other, and
// its memory can be counted without there being so much.

#include <cstdint>

#include "ops/forwarding.hpp"

namespace dino::ops {

/// Addresses that nobody can read.
class CountingMemory final : public Memory {
 public:
  [[nodiscard]] Device device() const override { return {Device::Kind::cpu, -1}; }
  [[nodiscard]] void* allocate(size_t bytes) override;
  void release(void* data, size_t bytes) noexcept override;
  void zero(void*, size_t) override {}

 private:
  uintptr_t next_ = kMemoryAlignment;
};

/// Copies between host and device are left out: what is read back is what the host had.
class CountingStream final : public Stream {
 public:
  explicit CountingStream(const CountingMemory& memory) : memory_(memory) {}
  [[nodiscard]] Device device() const override { return memory_.device(); }
  [[nodiscard]] Event record() override { return {}; }
  void wait(const Event& event) override { event.synchronize(); }
  void synchronize() override {}
  void copy_bytes(DeviceBytes, DeviceBytes, size_t) override {}
  void fill_elements(DeviceBytes, std::span<const std::byte>, size_t) override {}

 private:
  const CountingMemory& memory_;
};

class CountingBackend final : public ForwardingBackend<CountingBackend> {
 public:
  /// Works in the blocks of that one.
  explicit CountingBackend(const Backend& like) : blocks_(like.block_sizes()) {}
  [[nodiscard]] const char* name() const override { return "counting"; }
  [[nodiscard]] CountingMemory& memory() override { return memory_; }
  [[nodiscard]] std::unique_ptr<Stream> new_stream() override {
    return std::make_unique<CountingStream>(memory_);
  }
  [[nodiscard]] BlockSizes block_sizes() const override { return blocks_; }

 private:
  friend class ForwardingBackend<CountingBackend>;
  template <class... Parameters, class... Arguments>
  void run(Stream&, void (Backend::*)(Stream&, Parameters...), const Arguments&...) {}

  BlockSizes blocks_;
  CountingMemory memory_;
};

}  // namespace dino::ops
