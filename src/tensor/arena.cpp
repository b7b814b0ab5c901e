// SPDX-License-Identifier: Apache-2.0
#include "tensor/arena.hpp"

#include <algorithm>

namespace dino {
namespace {

constexpr int64_t kMinBlock = int64_t{1} << 22;
/// From here on a block's unused end could be what a GPU's memory lacks.
constexpr int64_t kLarge = int64_t{1} << 30;

}  // namespace

TensorView Arena::make(Shape shape, DType dtype) {
  const int64_t bytes =
      aligned_bytes(std::max<int64_t>(shape.numel() * static_cast<int64_t>(size_of(dtype)), 1));
  while (current_ < blocks_.size() && blocks_[current_].offset + bytes > blocks_[current_].memory.bytes())
    ++current_;
  if (current_ == blocks_.size()) {
    const int64_t reserved = reserved_bytes();
    const int64_t size = std::max({bytes, kMinBlock, reserved / (reserved < kLarge ? 2 : 16)});
    blocks_.push_back({Tensor::uninitialised(Shape{aligned_bytes(size)}, DType::u8, memory_), 0});
  }
  Block& block = blocks_[current_];
  void* data = static_cast<std::byte*>(block.memory.view().data) + block.offset;
  block.offset += bytes;
  peak_ = std::max(peak_, used_bytes());
  return {data, shape, dtype, memory_.device()};
}

TensorView Arena::zeros(Stream& stream, Shape shape, DType dtype) {
  const TensorView view = make(shape, dtype);
  fill(stream, view, 0);
  return view;
}

TensorView Arena::upload(Stream& stream, std::span<const int64_t> values) {
  const Shape shape{static_cast<int64_t>(values.size())};
  const TensorView view = make(shape, DType::i64);
  copy(stream, view, view_of(values.data(), shape));
  return view;
}

TensorView Arena::upload(Stream& stream, std::span<const float> values) {
  const Shape shape{static_cast<int64_t>(values.size())};
  const TensorView view = make(shape);
  copy(stream, view, view_of(values.data(), shape));
  return view;
}

int64_t Arena::used_bytes() const {
  int64_t used = 0;
  for (const Block& block : blocks_) used += block.offset;
  return used;
}

int64_t Arena::reserved_bytes() const {
  int64_t bytes = 0;
  for (const Block& block : blocks_) bytes += block.memory.bytes();
  return bytes;
}

void Arena::reset() {
  if (blocks_.size() > 1) {
    const int64_t bytes = std::max(peak_ + peak_ / 8, kMinBlock);
    blocks_.clear();
    blocks_.push_back({Tensor::uninitialised(Shape{aligned_bytes(bytes)}, DType::u8, memory_), 0});
  }
  for (Block& block : blocks_) block.offset = 0;
  current_ = 0;
}

Arena::Scope::Scope(Arena& arena)
    : arena_(arena),
      block_(arena.current_),
      offset_(arena.current_ < arena.blocks_.size() ? arena.blocks_[arena.current_].offset : 0) {}

Arena::Scope::~Scope() {
  for (size_t i = block_ + 1; i < arena_.blocks_.size(); ++i) arena_.blocks_[i].offset = 0;
  if (block_ < arena_.blocks_.size()) arena_.blocks_[block_].offset = offset_;
  arena_.current_ = block_;
}

}  // namespace dino
