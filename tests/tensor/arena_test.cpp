// SPDX-License-Identifier: Apache-2.0
#include "tensor/arena.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "tensor/elsewhere.hpp"

namespace dino {
namespace {

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
  HostStream stream;
  const auto step = [&] {
    const Arena::Scope scope(arena);
    (void)arena.zeros(stream, Shape{1 << 20});
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
  HostStream stream;
  {
    const Arena::Scope scope(arena);
    for (float& value : arena.make(Shape{64}).f32()) value = 1;
  }
  for (const float value : arena.zeros(stream, Shape{64}).f32()) EXPECT_EQ(value, 0.0f);
}

TEST(Arena, UploadsLists) {
  Arena arena;
  HostStream stream;
  std::vector<int64_t> rows = {5, 0, int64_t{1} << 40};
  std::vector<float> weights = {0.5F, -1};
  const TensorView list = arena.upload(stream, std::span<const int64_t>(rows));
  const TensorView values = arena.upload(stream, std::span<const float>(weights));
  rows.assign(3, 7), weights.assign(2, 7);  // the source may change as soon as the call returns
  EXPECT_EQ(list.shape, Shape{3});
  EXPECT_EQ(list.as<int64_t>()[2], int64_t{1} << 40);
  EXPECT_EQ(list.as<int64_t>()[0], 5);
  EXPECT_EQ(values.shape, Shape{2});
  EXPECT_EQ(values.f32()[1], -1);
}

/// An operator takes a missing list for the identity: a list of nothing must not look like one.
TEST(Arena, AnUploadedListOfNothingIsAList) {
  Arena arena;
  HostStream stream;
  const TensorView list = arena.upload(stream, std::span<const int64_t>());
  EXPECT_TRUE(list);
  EXPECT_EQ(list.numel(), 0);
  EXPECT_EQ(list.dtype, DType::i64);
}

TEST(Arena, OfADevice) {
  Elsewhere memory;
  {
    Arena arena(memory);
    ElsewhereStream stream;
    const TensorView view = arena.zeros(stream, Shape{3, 5});
    EXPECT_EQ(view.device, kElsewhere);
    EXPECT_THROW((void)view.as<float>(), InternalError);
    const std::vector<int64_t> rows = {4, 2};
    const TensorView list = arena.upload(stream, std::span<const int64_t>(rows));
    EXPECT_EQ(list.device, kElsewhere);
    Tensor back(Shape{2}, DType::i64);
    copy(stream, back, list);
    EXPECT_EQ(back.as<int64_t>()[0], 4);
    EXPECT_EQ(back.as<int64_t>()[1], 2);
    HostStream host;
    EXPECT_THROW((void)arena.zeros(host, Shape{3}), InternalError);
    EXPECT_EQ(memory.in_use(), arena.reserved_bytes());
    arena.reset();
    EXPECT_EQ(arena.make(Shape{3}).device, kElsewhere);
  }
  EXPECT_EQ(memory.in_use(), 0);
}

}  // namespace
}  // namespace dino
