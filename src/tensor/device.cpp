// SPDX-License-Identifier: Apache-2.0
#include "tensor/device.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.hpp"

namespace dino {
namespace {

class HostMemory final : public Memory {
 public:
  [[nodiscard]] Device device() const override { return {}; }
  [[nodiscard]] void* allocate(size_t bytes) override {
    return std::aligned_alloc(static_cast<size_t>(kMemoryAlignment),
                              static_cast<size_t>(aligned_bytes(static_cast<int64_t>(bytes))));
  }
  void release(void* data, size_t) noexcept override { std::free(data); }
  void zero(void* data, size_t bytes) override { std::memset(data, 0, bytes); }
};

}  // namespace

Memory& Memory::host() {
  static HostMemory memory;
  return memory;
}

void HostStream::copy_bytes(DeviceBytes to, DeviceBytes from, size_t bytes) {
  DINO_CHECK(to.device.is_host() && from.device.is_host(), "the host's stream copies the host's memory");
  if (bytes > 0) std::memcpy(to.data, from.data, bytes);
}

void HostStream::fill_elements(DeviceBytes to, std::span<const std::byte> element, size_t count) {
  DINO_CHECK(to.device.is_host(), "the host's stream fills the host's memory");
  if (count == 0) return;
  auto* bytes = static_cast<std::byte*>(to.data);
  const bool zero = std::all_of(element.begin(), element.end(), [](std::byte b) { return b == std::byte{}; });
  if (zero) {
    std::memset(bytes, 0, count * element.size());
    return;
  }
  for (size_t i = 0; i < count; ++i) std::memcpy(bytes + i * element.size(), element.data(), element.size());
}

}  // namespace dino
