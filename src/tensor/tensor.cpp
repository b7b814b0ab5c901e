// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace dino {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kMinBlock = int64_t{1} << 22;

std::atomic<int64_t> total_bytes{0};

int64_t round_up(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void* offset_rows(void* data, const Shape& shape, DType dtype, int64_t begin, int64_t count) {
  DINO_CHECK(shape.rank() >= 1 && begin >= 0 && count >= 0 && begin + count <= shape[0],
             fmt::format("rows [{}, {}) of {}", begin, begin + count, shape.str()));
  const int64_t row = shape[0] == 0 ? 0 : shape.numel() / shape[0];
  return static_cast<std::byte*>(data) + begin * row * static_cast<int64_t>(size_of(dtype));
}

Shape with_rows(const Shape& shape, int64_t count) {
  std::array<int64_t, Shape::kMaxRank> dims{};
  for (int i = 0; i < shape.rank(); ++i) dims[static_cast<size_t>(i)] = shape[i];
  dims[0] = count;
  return Shape(std::span<const int64_t>(dims.data(), static_cast<size_t>(shape.rank())));
}

}  // namespace

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::bf16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
  }
  return "?";
}

Shape::Shape(std::initializer_list<int64_t> dims)
    : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  DINO_CHECK(dims.size() <= static_cast<size_t>(kMaxRank), "a shape has at most four dimensions");
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
  return n;
}

std::string Shape::str() const {
  return fmt::format("[{}]", fmt::join(dims_.begin(), dims_.begin() + rank_, ", "));
}

ConstTensorView ConstTensorView::rows(int64_t begin, int64_t count) const {
  return {offset_rows(const_cast<void*>(data), shape, dtype, begin, count), with_rows(shape, count), dtype,
          device};
}

ConstTensorView ConstTensorView::reshaped(Shape other) const {
  DINO_CHECK(other.numel() == shape.numel(), shape.str() + " to " + other.str());
  return {data, other, dtype, device};
}

TensorView TensorView::rows(int64_t begin, int64_t count) const {
  return {offset_rows(data, shape, dtype, begin, count), with_rows(shape, count), dtype, device};
}

TensorView TensorView::reshaped(Shape other) const {
  DINO_CHECK(other.numel() == shape.numel(), shape.str() + " to " + other.str());
  return {data, other, dtype, device};
}

void TensorView::zero() const {
  if (data != nullptr) std::memset(data, 0, static_cast<size_t>(numel()) * size_of(dtype));
}

void Tensor::Free::operator()(void* p) const {
  std::free(p);
}

Tensor::Tensor(Shape shape, DType dtype, Device device) : Tensor(uninitialised(shape, dtype, device)) {
  view().zero();
}

Tensor Tensor::uninitialised(Shape shape, DType dtype, Device device) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  tensor.device_ = device;
  const int64_t bytes =
      std::max<int64_t>(round_up(shape.numel() * static_cast<int64_t>(size_of(dtype))), kAlignment);
  void* p = std::aligned_alloc(static_cast<size_t>(kAlignment), static_cast<size_t>(bytes));
  if (p == nullptr)
    throw IoError(fmt::format("out of memory: tensor {} of {}: {} bytes; use a smaller batch or model",
                              shape.str(), name_of(dtype), bytes));
  total_bytes.fetch_add(bytes, std::memory_order_relaxed);
  tensor.data_.reset(p);
  return tensor;
}

int64_t Tensor::bytes_allocated() {
  return total_bytes.load(std::memory_order_relaxed);
}

Tensor Tensor::clone() const {
  if (!data_) return {};
  Tensor copy(shape_, dtype_, device_);
  std::memcpy(copy.data_.get(), data_.get(), static_cast<size_t>(bytes()));
  return copy;
}

TensorView Arena::make(Shape shape, DType dtype) {
  const int64_t bytes = round_up(std::max<int64_t>(shape.numel() * static_cast<int64_t>(size_of(dtype)), 1));
  while (current_ < blocks_.size() && blocks_[current_].offset + bytes > blocks_[current_].memory.bytes())
    ++current_;
  if (current_ == blocks_.size()) {
    const int64_t size = std::max({bytes, kMinBlock, reserved_bytes() / 2});
    blocks_.push_back({Tensor::uninitialised(Shape{round_up(size)}, DType::u8, device_), 0});
  }
  Block& block = blocks_[current_];
  void* data = block.memory.as<uint8_t>() + block.offset;
  block.offset += bytes;
  peak_ = std::max(peak_, used_bytes());
  return {data, shape, dtype, device_};
}

TensorView Arena::zeros(Shape shape, DType dtype) {
  TensorView view = make(shape, dtype);
  view.zero();
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
    blocks_.push_back({Tensor::uninitialised(Shape{round_up(bytes)}, DType::u8, device_), 0});
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
