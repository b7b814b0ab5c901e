// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.hpp"

#include <gtest/gtest.h>

#include <cstdint>

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
  middle.zero();
  EXPECT_EQ(tensor.f32()[2], 2.0f);
  EXPECT_EQ(tensor.f32()[3], 0.0f);
  EXPECT_EQ(tensor.f32()[9], 9.0f);
  EXPECT_FALSE(ConstTensorView{});
}

TEST(Arena, ScopesFreeInStackOrder) {
  Arena arena;
  const TensorView outer = arena.make(Shape{100});
  void* reused = nullptr;
  {
    const Arena::Scope scope(arena);
    reused = arena.make(Shape{50}).data;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(reused) % 64, 0u);
  }
  const TensorView again = arena.make(Shape{50});
  EXPECT_EQ(again.data, reused);
  EXPECT_NE(again.data, outer.data);
  EXPECT_GE(arena.peak_bytes(), 600);
}

TEST(Arena, ScopesReachOverBlocks) {
  Arena arena;
  (void)arena.make(Shape{1 << 20});  // 4 MiB: the first block is full
  const int64_t used = arena.used_bytes();
  {
    const Arena::Scope scope(arena);
    (void)arena.make(Shape{1 << 20});
    (void)arena.make(Shape{1 << 21});
    EXPECT_GT(arena.used_bytes(), used);
  }
  EXPECT_EQ(arena.used_bytes(), used);
}

TEST(Arena, GrowsThenAllocatesNothing) {
  Arena arena;
  const auto step = [&] {
    const Arena::Scope scope(arena);
    (void)arena.zeros(Shape{1 << 20});
    (void)arena.make(Shape{1 << 21});
    (void)arena.make(Shape{3}, DType::bf16);
  };
  step();
  arena.reset();
  const int64_t reserved = arena.reserved_bytes();
  for (int i = 0; i < 3; ++i) {
    step();
    arena.reset();
    EXPECT_EQ(arena.reserved_bytes(), reserved);
  }
  EXPECT_EQ(arena.used_bytes(), 0);
}

TEST(Arena, ZerosClearsReusedMemory) {
  Arena arena;
  {
    const Arena::Scope scope(arena);
    for (float& value : arena.make(Shape{64}).f32()) value = 1;
  }
  for (const float value : arena.zeros(Shape{64}).f32()) EXPECT_EQ(value, 0.0f);
}

}  // namespace
}  // namespace dino
