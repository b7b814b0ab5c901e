// SPDX-License-Identifier: Apache-2.0
#pragma once
// Dense row-major tensors. Views do not own and are always contiguous; strided access is an operator's
// business, not a view's.

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

namespace dino {

enum class DType : uint8_t { f32, f64, bf16, i32, i64, u8 };
[[nodiscard]] size_t size_of(DType dtype);
[[nodiscard]] const char* name_of(DType dtype);

/// Where the bytes live; the device of an operator's arguments picks its backend.
enum class Device : uint8_t { cpu };

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
}  // namespace detail

/// Read-only view. A default-constructed view is empty (`!view`), which operators document where they allow
/// it.
struct ConstTensorView {
  const void* data = nullptr;
  Shape shape;
  DType dtype = DType::f32;
  Device device = Device::cpu;

  explicit operator bool() const { return data != nullptr; }
  [[nodiscard]] int64_t numel() const { return data == nullptr ? 0 : shape.numel(); }
  [[nodiscard]] int64_t dim(int i) const { return shape[i]; }
  /// Typed pointer; InternalError when the dtype is another.
  template <class T>
  [[nodiscard]] const T* as() const {
    DINO_CHECK(dtype == detail::DTypeOf<T>::value, std::string("tensor holds ") + name_of(dtype));
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
  Device device = Device::cpu;

  explicit operator bool() const { return data != nullptr; }
  operator ConstTensorView() const {
    return {data, shape, dtype, device};
  }  // NOLINT(google-explicit-constructor)
  [[nodiscard]] int64_t numel() const { return data == nullptr ? 0 : shape.numel(); }
  [[nodiscard]] int64_t dim(int i) const { return shape[i]; }
  template <class T>
  [[nodiscard]] T* as() const {
    DINO_CHECK(dtype == detail::DTypeOf<T>::value, std::string("tensor holds ") + name_of(dtype));
    return static_cast<T*>(data);
  }
  [[nodiscard]] std::span<float> f32() const { return {as<float>(), static_cast<size_t>(numel())}; }
  [[nodiscard]] TensorView rows(int64_t begin, int64_t count) const;
  [[nodiscard]] TensorView reshaped(Shape other) const;
  void zero() const;
};

/// View of caller-owned memory.
template <class T>
[[nodiscard]] TensorView view_of(T* data, Shape shape) {
  return {data, shape, detail::DTypeOf<T>::value, Device::cpu};
}
template <class T>
[[nodiscard]] ConstTensorView view_of(const T* data, Shape shape) {
  return {data, shape, detail::DTypeOf<T>::value, Device::cpu};
}

/// Owning tensor, 64-byte aligned, zero-filled. Moves, does not copy (use clone()).
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Shape shape, DType dtype = DType::f32, Device device = Device::cpu);
  /// Contents undefined, pages untouched.
  [[nodiscard]] static Tensor uninitialised(Shape shape, DType dtype = DType::f32,
                                            Device device = Device::cpu);
  /// Bytes that all tensors of this process have asked for since it started.
  [[nodiscard]] static int64_t bytes_allocated();
  [[nodiscard]] TensorView view() { return {data_.get(), shape_, dtype_, device_}; }
  [[nodiscard]] ConstTensorView view() const { return {data_.get(), shape_, dtype_, device_}; }
  operator TensorView() { return view(); }             // NOLINT(google-explicit-constructor)
  operator ConstTensorView() const { return view(); }  // NOLINT(google-explicit-constructor)
  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] DType dtype() const { return dtype_; }
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
  [[nodiscard]] Tensor clone() const;

 private:
  struct Free {
    void operator()(void* p) const;
  };
  std::unique_ptr<void, Free> data_;
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_ = Device::cpu;
};

/// Bump allocator for the activations of one step: it grows in the first steps and allocates nothing
/// afterwards. Views live until the scope that was open when they were made ends. Its pages are touched when
/// they are first used, so room to spare costs no memory.
class Arena {
 public:
  explicit Arena(Device device = Device::cpu) : device_(device) {}
  /// Uninitialised, 64-byte aligned.
  [[nodiscard]] TensorView make(Shape shape, DType dtype = DType::f32);
  [[nodiscard]] TensorView zeros(Shape shape, DType dtype = DType::f32);
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
  Device device_;
};

}  // namespace dino
