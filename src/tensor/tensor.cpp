// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

namespace dino {
namespace {

std::atomic<int64_t> total_bytes{0};

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
    case DType::f16:
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
    case DType::f16:
      return "f16";
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

void detail::check_access(DType held, DType wanted, Device device) {
  DINO_CHECK(held == wanted, std::string("tensor holds ") + name_of(held));
  DINO_CHECK(device.is_host(), "the host touches a device's memory");
}

void copy(Stream& stream, TensorView to, ConstTensorView from) {
  DINO_CHECK(to.dtype == from.dtype && to.numel() == from.numel(),
             fmt::format("copy {} {} to {} {}", name_of(from.dtype), from.shape.str(), name_of(to.dtype),
                         to.shape.str()));
  stream.copy_bytes({to.data, to.device}, {const_cast<void*>(from.data), from.device},
                    static_cast<size_t>(to.numel()) * size_of(to.dtype));
}

void fill(Stream& stream, TensorView view, float value) {
  const auto put = [&](const auto element) {
    stream.fill_elements({view.data, view.device}, std::as_bytes(std::span(&element, 1)),
                         static_cast<size_t>(view.numel()));
  };
  switch (view.dtype) {
    case DType::f32:
      return put(value);
    case DType::f64:
      return put(static_cast<double>(value));
    case DType::bf16:
      return put(bf16(value));
    case DType::f16:
      return put(f16(value));
    case DType::i32:
      return put(static_cast<int32_t>(value));
    case DType::i64:
      return put(static_cast<int64_t>(value));
    case DType::u8:
      return put(static_cast<uint8_t>(value));
  }
}

Tensor::Tensor(Shape shape, DType dtype, Memory& memory) : Tensor(uninitialised(shape, dtype, memory)) {
  memory.zero(data_.get(), static_cast<size_t>(bytes()));
}

Tensor Tensor::uninitialised(Shape shape, DType dtype, Memory& memory) {
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  const int64_t bytes = std::max<int64_t>(aligned_bytes(shape.numel() * static_cast<int64_t>(size_of(dtype))),
                                          kMemoryAlignment);
  void* p = memory.allocate(static_cast<size_t>(bytes));
  if (p == nullptr)
    throw IoError(fmt::format("out of memory: tensor {} of {}: {} bytes; use a smaller batch or model",
                              shape.str(), name_of(dtype), bytes));
  total_bytes.fetch_add(bytes, std::memory_order_relaxed);
  tensor.data_ = {p, Release{&memory, static_cast<size_t>(bytes)}};
  return tensor;
}

int64_t Tensor::bytes_allocated() {
  return total_bytes.load(std::memory_order_relaxed);
}

Tensor Tensor::clone() const {
  if (!data_) return {};
  DINO_CHECK(device().is_host(), "a clone of the host's tensor");
  Tensor copy = uninitialised(shape_, dtype_);
  std::memcpy(copy.data_.get(), data_.get(), static_cast<size_t>(bytes()));
  return copy;
}

}  // namespace dino
