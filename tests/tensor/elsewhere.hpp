// SPDX-License-Identifier: Apache-2.0
#pragma once
// A device that is not the host, for tests: its bytes happen to be the host's, but its views do not say so.

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.hpp"
#include "tensor/device.hpp"

namespace dino {

constexpr Device kElsewhere{Device::Kind::cuda, 1};

/// Counts its bytes, and has only so many.
class Elsewhere final : public Memory {
 public:
  explicit Elsewhere(size_t capacity = size_t{1} << 30) : capacity_(capacity) {}
  [[nodiscard]] Device device() const override { return kElsewhere; }
  [[nodiscard]] void* allocate(size_t bytes) override {
    if (in_use_ + bytes > capacity_) return nullptr;
    in_use_ += bytes;
    return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  }
  void release(void* data, size_t bytes) noexcept override {
    in_use_ -= bytes;
    std::free(data);
  }
  void zero(void* data, size_t bytes) override {
    zeroed_ += static_cast<int64_t>(bytes);
    std::memset(data, 0, bytes);
  }
  [[nodiscard]] int64_t in_use() const { return static_cast<int64_t>(in_use_); }
  [[nodiscard]] int64_t zeroed() const { return zeroed_; }

 private:
  size_t capacity_;
  size_t in_use_ = 0;
  int64_t zeroed_ = 0;
};

/// Its queue: done at once.
class ElsewhereStream final : public Stream {
 public:
  [[nodiscard]] Device device() const override { return kElsewhere; }
  [[nodiscard]] Event record() override { return {}; }
  void wait(const Event& event) override { event.synchronize(); }
  void synchronize() override {}
  void copy_bytes(DeviceBytes to, DeviceBytes from, size_t bytes) override {
    DINO_CHECK(to.device == kElsewhere || from.device == kElsewhere, "a copy of this device");
    if (bytes > 0) std::memcpy(to.data, from.data, bytes);
  }
  void fill_elements(DeviceBytes to, std::span<const std::byte> element, size_t count) override {
    DINO_CHECK(to.device == kElsewhere, "memory of this device");
    auto* bytes = static_cast<std::byte*>(to.data);
    for (size_t i = 0; i < count; ++i) std::copy(element.begin(), element.end(), bytes + i * element.size());
  }
};

}  // namespace dino
