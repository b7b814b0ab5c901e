// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "tensor/elsewhere.hpp"

namespace dino {
namespace {

TEST(Shape, CountsAndPrints) {
  EXPECT_EQ((Shape{2, 3, 4}).numel(), 24);
  EXPECT_EQ(Shape{}.numel(), 1);
  EXPECT_EQ((Shape{0, 5}).numel(), 0);
  EXPECT_EQ((Shape{2, 3}).str(), "[2, 3]");
  EXPECT_EQ((Shape{2, 3}), (Shape{2, 3}));
  EXPECT_NE((Shape{2, 3}), (Shape{3, 2}));
  EXPECT_THROW((Shape{1, 2, 3, 4, 5}), InternalError);
}

TEST(Tensor, IsAlignedZeroedAndTyped) {
  Tensor tensor(Shape{3, 5});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.as<float>()) % 64, 0u);
  for (const float value : tensor.f32()) EXPECT_EQ(value, 0.0f);
  EXPECT_EQ(tensor.bytes(), 60);
  EXPECT_THROW((void)tensor.as<double>(), InternalError);
  EXPECT_EQ(Tensor(Shape{7}, DType::bf16).bytes(), 14);
}

TEST(Tensor, CloneIsIndependent) {
  Tensor tensor(Shape{2, 2});
  tensor.f32()[3] = 5;
  Tensor copy = tensor.clone();
  tensor.f32()[3] = 6;
  EXPECT_EQ(copy.f32()[3], 5.0f);
  EXPECT_EQ(copy.shape(), (Shape{2, 2}));
  EXPECT_EQ(Tensor().clone().numel(), 0);
}

TEST(Tensor, OfADeviceIsNotTouchedByTheHost) {
  Elsewhere memory;
  {
    Tensor tensor(Shape{2, 3}, DType::f32, memory);
    EXPECT_EQ(tensor.device(), kElsewhere);
    EXPECT_EQ(memory.zeroed(), 24);
    EXPECT_EQ(tensor.view().device, kElsewhere);
    EXPECT_EQ(tensor.view().rows(1, 1).device, kElsewhere);
    EXPECT_EQ(tensor.view().reshaped(Shape{6}).device, kElsewhere);
    const ConstTensorView view = tensor;
    EXPECT_EQ(view.device, kElsewhere);
    EXPECT_EQ(view.rows(1, 1).device, kElsewhere);
    EXPECT_EQ(view.reshaped(Shape{6}).device, kElsewhere);
    EXPECT_THROW((void)tensor.as<float>(), InternalError);
    EXPECT_THROW((void)tensor.f32(), InternalError);
    EXPECT_THROW((void)view.as<float>(), InternalError);
    EXPECT_THROW((void)view.f32(), InternalError);
    EXPECT_THROW((void)tensor.clone(), InternalError);
    Tensor moved = std::move(tensor);
    EXPECT_EQ(moved.device(), kElsewhere);
    EXPECT_EQ(memory.in_use(), 64);
    moved = Tensor(Shape{100}, DType::u8, memory);
    EXPECT_EQ(memory.in_use(), 128);
  }
  EXPECT_EQ(memory.in_use(), 0);
  EXPECT_EQ(Tensor().device(), Device{});
}

TEST(Tensor, OutOfMemorySaysWhatWasWanted) {
  Elsewhere memory(1000);
  const Tensor fits({200}, DType::f32, memory);
  try {
    const Tensor too_large({50, 2}, DType::f32, memory);
    FAIL() << "there is no room";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("[50, 2] of f32: 448 bytes"), std::string::npos) << error.what();
  }
  EXPECT_EQ(memory.in_use(), 832);
}

TEST(View, RowsAndReshape) {
  Tensor tensor(Shape{4, 3});
  for (size_t i = 0; i < 12; ++i) tensor.f32()[i] = static_cast<float>(i);
  const TensorView middle = tensor.view().rows(1, 2);
  EXPECT_EQ(middle.shape, (Shape{2, 3}));
  EXPECT_EQ(middle.f32()[0], 3.0f);
  EXPECT_EQ(middle.reshaped(Shape{6}).f32()[5], 8.0f);
  EXPECT_THROW((void)tensor.view().rows(3, 2), InternalError);
  EXPECT_THROW((void)middle.reshaped(Shape{7}), InternalError);
  EXPECT_EQ(tensor.view().rows(4, 0).numel(), 0);
  EXPECT_FALSE(ConstTensorView{});
  EXPECT_EQ(ConstTensorView{}.numel(), 0);
}

TEST(Copy, OfTheSameTypeAndSize) {
  HostStream stream;
  for (const DType dtype :
       {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8}) {
    Tensor from(Shape{3, 4}, dtype), to(Shape{12}, dtype);
    auto* bytes = static_cast<uint8_t*>(from.view().data);
    for (int64_t i = 0; i < from.bytes(); ++i) bytes[i] = static_cast<uint8_t>(i + 1);
    copy(stream, to, from);
    EXPECT_EQ(std::memcmp(to.view().data, bytes, static_cast<size_t>(from.bytes())), 0) << name_of(dtype);
  }
  Tensor f32(Shape{4}), i32(Shape{4}, DType::i32), f64(Shape{2}, DType::f64), longer(Shape{5});
  EXPECT_THROW(copy(stream, i32, f32), InternalError);
  EXPECT_THROW(copy(stream, f64, f32), InternalError);  // as many bytes
  EXPECT_THROW(copy(stream, longer, f32), InternalError);
  EXPECT_THROW(copy(stream, f32, longer), InternalError);
  copy(stream, Tensor(Shape{0}), Tensor(Shape{0}));
  copy(stream, {}, {});
}

TEST(Copy, TouchesNothingBesideTheRows) {
  HostStream stream;
  Tensor to(Shape{4, 3}), from(Shape{2, 3});
  for (float& value : to.f32()) value = 7;
  for (float& value : from.f32()) value = 5;
  copy(stream, to.view().rows(1, 2), from);
  for (size_t i = 0; i < 12; ++i) EXPECT_EQ(to.f32()[i], i >= 3 && i < 9 ? 5 : 7);
}

TEST(Fill, RoundsToEveryType) {
  HostStream stream;
  const auto filled = [&](DType dtype, float value) {
    Tensor tensor(Shape{5}, dtype);
    std::memset(tensor.view().data, 0xff, static_cast<size_t>(tensor.bytes()));
    fill(stream, tensor.view().rows(1, 3), value);
    return tensor;
  };
  for (const float value : {0.0f, -2.5f, 3.0f}) {
    EXPECT_EQ(filled(DType::f32, value).as<float>()[1], value);
    EXPECT_EQ(filled(DType::f32, value).as<float>()[3], value);
    EXPECT_EQ(filled(DType::f64, value).as<double>()[3], static_cast<double>(value));
    EXPECT_EQ(static_cast<float>(filled(DType::bf16, value).as<bf16>()[3]), value);
    EXPECT_EQ(static_cast<float>(filled(DType::f16, value).as<f16>()[3]), value);
    EXPECT_EQ(filled(DType::i32, value).as<int32_t>()[3], static_cast<int32_t>(value));
    EXPECT_EQ(filled(DType::i64, value).as<int64_t>()[3], static_cast<int64_t>(value));
  }
  EXPECT_EQ(static_cast<float>(filled(DType::bf16, 1.00390625f).as<bf16>()[2]), 1.0f);  // halfway: to even
  EXPECT_EQ(filled(DType::u8, 200).as<uint8_t>()[2], 200);
  EXPECT_TRUE(std::signbit(filled(DType::f32, -0.0f).as<float>()[2]));
  for (const DType dtype :
       {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8}) {
    const Tensor tensor = filled(dtype, 1);
    const auto size = static_cast<int64_t>(size_of(dtype));
    const auto* bytes = static_cast<const uint8_t*>(tensor.view().data);
    for (int64_t i = 0; i < size; ++i) {
      EXPECT_EQ(bytes[i], 0xff) << "before the rows";
      EXPECT_EQ(bytes[4 * size + i], 0xff) << "behind the rows";
    }
  }
  fill(stream, Tensor(Shape{0}), 1);
}

}  // namespace
}  // namespace dino
