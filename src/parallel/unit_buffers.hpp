// SPDX-License-Identifier: Apache-2.0
#pragma once
// Buffers of whole units that come and go: kept for the next unit of the same size.

#include <cstdint>
#include <map>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino {

/// Of one stream: a buffer that is given back is used again by later work of that stream.
class UnitBuffers {
 public:
  explicit UnitBuffers(Memory& memory) : memory_(memory) {}
  /// f32 [numel], contents undefined.
  [[nodiscard]] Tensor take(int64_t numel) {
    std::vector<Tensor>& free = free_[numel];
    if (free.empty()) {
      bytes_ += numel * static_cast<int64_t>(sizeof(float));
      return Tensor::uninitialised(Shape{numel}, DType::f32, memory_);
    }
    Tensor buffer = std::move(free.back());
    free.pop_back();
    return buffer;
  }
  void give_back(Tensor buffer) { free_[buffer.numel()].push_back(std::move(buffer)); }
  /// Of all buffers ever made, which are all kept.
  [[nodiscard]] int64_t bytes() const { return bytes_; }

 private:
  Memory& memory_;
  std::map<int64_t, std::vector<Tensor>> free_;
  int64_t bytes_ = 0;
};

}  // namespace dino
