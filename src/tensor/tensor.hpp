// SPDX-License-Identifier: Apache-2.0
#pragma once
// Dense row-major tensors. Views do not own and are always contiguous; strided access is an operator's
// business, not a view's. A view's bytes belong to its device: on the host they can be touched where the
// device is the host, and nowhere else.

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/half.hpp"
#include "tensor/device.hpp"

namespace dino {

enum class DType : uint8_t { f32, f64, bf16, f16, i32, i64, u8 };
[[nodiscard]] size_t size_of(DType dtype);
[[nodiscard]] const char* name_of(DType dtype);

/// Up to four dimensions, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(std::span<const int64_t> dims);
  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  [[nodiscard]] int64_t numel() const;    ///< 1 for rank 0
  [[nodiscard]] std::string str() const;  ///< "[2, 3]"
  bool operator==(const Shape&) const = default;

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

namespace detail {
template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<f16> {
  static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};
/// A programmer's error unless a view of dtype `held` on `device` may be read as `wanted` by the host.
void check_access(DType held, DType wanted, Device device);
}  // namespace detail

/// Read-only view. A default-constructed view is empty (`!view`), which operators document where they allow
/// it.
struct ConstTensorView {
  const void* data = nullptr;
  Shape shape;
  DType dtype = DType::f32;
  Device device;

  explicit operator bool() const { return data != nullptr; }
  [[nodiscard]] int64_t numel() const { return data == nullptr ? 0 : shape.numel(); }
  [[nodiscard]] int64_t dim(int i) const { return shape[i]; }
  /// Typed pointer; InternalError when the dtype is another, or the bytes are not the host's.
  template <class T>
  [[nodiscard]] const T* as() const {
    detail::check_access(dtype, detail::DTypeOf<T>::value, device);
    return static_cast<const T*>(data);
  }
  [[nodiscard]] std::span<const float> f32() const { return {as<float>(), static_cast<size_t>(numel())}; }
  /// Rows [begin, begin + count) of the outermost dimension.
  [[nodiscard]] ConstTensorView rows(int64_t begin, int64_t count) const;
  [[nodiscard]] ConstTensorView reshaped(Shape other) const;
};

/// Writable view; converts to a read-only one.
struct TensorView {
  void* data = nullptr;
  Shape shape;
  DType dtype = DType::f32;
  Device device;

  explicit operator bool() const { return data != nullptr; }
  operator ConstTensorView() const {
    return {data, shape, dtype, device};
  }  // NOLINT(google-explicit-constructor)
  [[nodiscard]] int64_t numel() const { return data == nullptr ? 0 : shape.numel(); }
  [[nodiscard]] int64_t dim(int i) const { return shape[i]; }
  template <class T>
  [[nodiscard]] T* as() const {
    detail::check_access(dtype, detail::DTypeOf<T>::value, device);
    return static_cast<T*>(data);
  }
  [[nodiscard]] std::span<float> f32() const { return {as<float>(), static_cast<size_t>(numel())}; }
  [[nodiscard]] TensorView rows(int64_t begin, int64_t count) const;
  [[nodiscard]] TensorView reshaped(Shape other) const;
};

/// The same dtype and number of elements; one side is of the stream's device, the other too or the host's
/// (see Stream::copy_bytes for when it is done).
void copy(Stream& stream, TensorView to, ConstTensorView from);
/// Every element <- value (rounded to the dtype).
void fill(Stream& stream, TensorView view, float value);

/// View of caller-owned memory.
template <class T>
[[nodiscard]] TensorView view_of(T* data, Shape shape) {
  return {data, shape, detail::DTypeOf<T>::value, {}};
}
template <class T>
[[nodiscard]] ConstTensorView view_of(const T* data, Shape shape) {
  return {data, shape, detail::DTypeOf<T>::value, {}};
}

/// Owning tensor, 64-byte aligned, zero-filled. Moves, does not copy (use clone()).
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Shape shape, DType dtype = DType::f32, Memory& memory = Memory::host());
  /// Contents undefined, pages untouched.
  [[nodiscard]] static Tensor uninitialised(Shape shape, DType dtype = DType::f32,
                                            Memory& memory = Memory::host());
  /// Bytes that all tensors of this process have asked for since it started.
  [[nodiscard]] static int64_t bytes_allocated();
  [[nodiscard]] TensorView view() { return {data_.get(), shape_, dtype_, device()}; }
  [[nodiscard]] ConstTensorView view() const { return {data_.get(), shape_, dtype_, device()}; }
  operator TensorView() { return view(); }             // NOLINT(google-explicit-constructor)
  operator ConstTensorView() const { return view(); }  // NOLINT(google-explicit-constructor)
  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] Device device() const { return data_ ? data_.get_deleter().memory->device() : Device{}; }
  [[nodiscard]] int64_t numel() const { return data_ ? shape_.numel() : 0; }
  [[nodiscard]] int64_t bytes() const { return numel() * static_cast<int64_t>(size_of(dtype_)); }
  template <class T>
  [[nodiscard]] T* as() {
    return view().as<T>();
  }
  template <class T>
  [[nodiscard]] const T* as() const {
    return view().as<T>();
  }
  [[nodiscard]] std::span<float> f32() { return view().f32(); }
  [[nodiscard]] std::span<const float> f32() const { return view().f32(); }
  /// Of a host tensor.
  [[nodiscard]] Tensor clone() const;

 private:
  struct Release {
    Memory* memory;
    size_t bytes;
    void operator()(void* p) const { memory->release(p, bytes); }
  };
  std::unique_ptr<void, Release> data_{nullptr, Release{nullptr, 0}};
  Shape shape_;
  DType dtype_ = DType::f32;
};

}  // namespace dino
