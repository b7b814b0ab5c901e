// SPDX-License-Identifier: Apache-2.0
#pragma once
// The memory of a device for tests: what the host touches outside operators, copies and collectives faults.

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>

#include "ops/ops.hpp"
#include "tensor/device.hpp"
#include "tensor/tensor.hpp"

namespace dino::testing {

/// One memory file, mapped twice at a constant distance. Views carry addresses of the closed mapping, which
/// nobody can access; `open` gives the same bytes at an address that the host can. Every allocation ends at a
/// page without access in both mappings, so that work which runs over its end faults too; released pages have
/// no access, and their addresses come back as late as possible. The address sanitizer knows the bytes of a
/// page that are not the allocation's. Fresh memory holds bytes of 0xff (NaN; the index -1), so that a value
/// nobody wrote is seen.
class MappedMemory final : public Memory {
 public:
  static constexpr size_t kReserved = size_t{4} << 30;
  explicit MappedMemory(size_t reserve = kReserved, Device device = {Device::Kind::cpu, 1});
  ~MappedMemory() override;
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;

  [[nodiscard]] Device device() const override { return device_; }
  [[nodiscard]] void* allocate(size_t bytes) override;
  void release(void* data, size_t bytes) noexcept override;
  void zero(void* data, size_t bytes) override;

  /// The same bytes for the host. InternalError unless they lie in one allocation that has not been released.
  [[nodiscard]] void* open(const void* data, size_t bytes) const;
  /// All that `open` may give.
  [[nodiscard]] std::span<std::byte> opened() const { return {open_, reserve_}; }
  /// The same view for the host; an empty one stays empty.
  [[nodiscard]] ConstTensorView open(ConstTensorView view) const;
  [[nodiscard]] TensorView open(TensorView view) const;
  [[nodiscard]] ops::Sequences open(const ops::Sequences& sequences) const;
  [[nodiscard]] ops::SparseRows open(const ops::SparseRows& matrix) const;

 private:
  struct Block {
    size_t bytes = 0;
    size_t pages_begin = 0, pages_end = 0;  ///< offsets in the file, with the guard page
  };
  [[nodiscard]] size_t find_room(size_t bytes) const;

  size_t reserve_ = 0;
  Device device_;
  int file_ = -1;
  std::byte* closed_ = nullptr;
  std::byte* open_ = nullptr;
  mutable std::mutex mutex_;
  std::map<size_t, Block> blocks_;  ///< by the offset of their first byte
  size_t next_ = 0;                 ///< where the search for room begins
};

}  // namespace dino::testing
