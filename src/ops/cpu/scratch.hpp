// SPDX-License-Identifier: Apache-2.0
#pragma once
// A buffer that grows and is kept: operators run thousands of times on the same shapes.

#include <cstddef>
#include <cstdint>

#include "tensor/tensor.hpp"

namespace dino::ops {

class Scratch {
 public:
  /// At least `count` bytes, 64-byte aligned, contents undefined; valid until the next call.
  void* bytes(size_t count) {
    if (static_cast<size_t>(memory_.bytes()) < count || memory_.numel() == 0)
      memory_ = Tensor::uninitialised(Shape{static_cast<int64_t>(count) + 1}, DType::u8);
    return memory_.as<uint8_t>();
  }
  float* floats(int64_t count) {
    return static_cast<float*>(bytes(static_cast<size_t>(count) * sizeof(float)));
  }

 private:
  Tensor memory_;
};

}  // namespace dino::ops
