// SPDX-License-Identifier: Apache-2.0
#pragma once
// Buffers of units that come and go: kept for the next unit of the same size.

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino {

/// Of one stream: a buffer that is given back is used again by later work of that stream.
class UnitBuffers {
 public:
  explicit UnitBuffers(Memory& memory) : memory_(memory) {}
  /// [numel], contents undefined.
  [[nodiscard]] Tensor take(int64_t numel, DType dtype = DType::f32) {
    std::vector<Tensor>& free = free_[{numel, dtype}];
    if (free.empty()) {
      bytes_ += numel * static_cast<int64_t>(size_of(dtype));
      return Tensor::uninitialised(Shape{numel}, dtype, memory_);
    }
    Tensor buffer = std::move(free.back());
    free.pop_back();
    return buffer;
  }
  void give_back(Tensor buffer) { free_[{buffer.numel(), buffer.dtype()}].push_back(std::move(buffer)); }
  /// Of all buffers ever made, which are all kept.
  [[nodiscard]] int64_t bytes() const { return bytes_; }

 private:
  Memory& memory_;
  std::map<std::pair<int64_t, DType>, std::vector<Tensor>> free_;
  int64_t bytes_ = 0;
};

}  // namespace dino
