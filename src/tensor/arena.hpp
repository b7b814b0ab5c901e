// SPDX-License-Identifier: Apache-2.0
#pragma once
// Memory for the tensors of one step.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.hpp"

namespace dino {

/// Bump allocator for the activations of one step: it grows in the first steps and allocates nothing
/// afterwards. An arena belongs to one stream: memory given back is used again by later work of that stream,
/// in order. Views live until the scope that was open when they were made ends. Its pages are touched when
/// they are first used, so room to spare costs no memory.
class Arena {
 public:
  explicit Arena(Memory& memory = Memory::host()) : memory_(memory) {}
  /// Uninitialised, 64-byte aligned.
  [[nodiscard]] TensorView make(Shape shape, DType dtype = DType::f32);
  /// All elements 0, as part of the stream's work.
  [[nodiscard]] TensorView zeros(Stream& stream, Shape shape, DType dtype = DType::f32);
  /// The host's values in the arena's memory, [n]: row lists and sequence starts for the operators.
  [[nodiscard]] TensorView upload(Stream& stream, std::span<const int64_t> values);
  [[nodiscard]] TensorView upload(Stream& stream, std::span<const float> values);
  [[nodiscard]] int64_t used_bytes() const;
  [[nodiscard]] int64_t peak_bytes() const { return peak_; }
  [[nodiscard]] int64_t reserved_bytes() const;
  /// Frees everything made since (stack discipline).
  class Scope {
   public:
    explicit Scope(Arena& arena);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    size_t block_;
    int64_t offset_;
  };
  /// Frees all; merges the blocks into one, an eighth larger than the step just ended, so that the next one,
  /// if it is not much larger, needs a single block.
  void reset();

 private:
  struct Block {
    Tensor memory;
    int64_t offset = 0;
  };
  std::vector<Block> blocks_;
  size_t current_ = 0;
  int64_t peak_ = 0;
  Memory& memory_;
};

}  // namespace dino
