// SPDX-License-Identifier: Apache-2.0
// The device for tests notices what it is there to notice.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "base/random.hpp"
#include "mapped/backend.hpp"
#include "mapped/faults.hpp"
#include "mapped/memory.hpp"
#include "mapped/stream.hpp"

namespace dino::testing {
namespace {

const std::byte* end_of(ConstTensorView view) {
  return static_cast<const std::byte*>(view.data) + static_cast<size_t>(view.numel()) * size_of(view.dtype);
}

/// 1, 2, 3, ... on the host.
Tensor counting(int64_t n) {
  Tensor tensor(Shape{n});
  std::iota(tensor.f32().begin(), tensor.f32().end(), 1.0F);
  return tensor;
}

std::vector<float> read(Stream& stream, ConstTensorView view) {
  Tensor host(view.shape);
  copy(stream, host, view);
  stream.synchronize();
  return {host.f32().begin(), host.f32().end()};
}

TEST(MappedMemory, TheHostCannotTouchIt) {
  MappedMemory memory;
  Tensor tensor(Shape{16}, DType::f32, memory);
  EXPECT_EQ(tensor.device(), (Device{Device::Kind::cpu, 1}));
  EXPECT_FALSE(tensor.device().is_host());
  EXPECT_TRUE(faults(tensor.view().data));
  EXPECT_THROW((void)tensor.f32(), InternalError);
  EXPECT_THROW((void)tensor.clone(), InternalError);
  const TensorView open = memory.open(tensor.view());
  EXPECT_FALSE(faults(open.data));
  for (const float value : open.f32()) EXPECT_EQ(value, 0.0F);
  EXPECT_FALSE(memory.open(TensorView{}));
}

TEST(MappedMemory, FreshMemoryIsNotANumber) {
  MappedMemory memory;
  for (int repeat = 0; repeat < 2; ++repeat) {
    const Tensor floats = Tensor::uninitialised(Shape{2000}, DType::f32, memory);
    const Tensor indices = Tensor::uninitialised(Shape{3}, DType::i64, memory);
    for (const float value : memory.open(floats.view()).f32()) ASSERT_TRUE(std::isnan(value));
    EXPECT_EQ(memory.open(indices.view()).as<int64_t>()[2], -1);
  }
}

TEST(MappedMemory, AnAllocationEndsAtAPageWithoutAccess) {
  MappedMemory memory;
  for (const int64_t n : {16, 1024, 5008}) {  // whole units of 64 bytes, as every tensor has
    const Tensor before(Shape{n}, DType::f32, memory), tensor(Shape{n}, DType::f32, memory),
        after(Shape{n}, DType::f32, memory);
    const std::byte* end = end_of(memory.open(tensor.view()));
    EXPECT_FALSE(faults(end - 1));
    EXPECT_TRUE(faults(end));
    EXPECT_TRUE(faults(end_of(memory.open(before.view()))));
  }
}

TEST(MappedMemory, ViewsLieInOneLiveAllocation) {
  MappedMemory memory;
  const Tensor first(Shape{16}, DType::f32, memory);
  Tensor tensor(Shape{16}, DType::f32, memory);
  TensorView view = tensor;
  EXPECT_TRUE(memory.open(view.rows(16, 0)));
  view.shape = Shape{17};
  EXPECT_THROW((void)memory.open(view), InternalError);
  view = {static_cast<std::byte*>(view.data) - 4, Shape{4}, DType::f32, view.device};
  EXPECT_THROW((void)memory.open(view), InternalError);
  const Tensor host(Shape{16});
  EXPECT_THROW((void)memory.open(host.view()), InternalError);
  MappedMemory other;
  EXPECT_THROW((void)other.open(tensor.view()), InternalError);

  view = tensor;
  const void* open = memory.open(view).data;
  tensor = {};
  EXPECT_THROW((void)memory.open(view), InternalError);
  EXPECT_TRUE(faults(open));
}

TEST(MappedMemory, ReleasedMemoryComesBackLateButComesBack) {
  MappedMemory memory(size_t{1} << 20);
  const void* last = nullptr;
  const Tensor kept(Shape{16}, DType::f32, memory);
  for (int i = 0; i < 1000; ++i) {
    const Tensor tensor(Shape{30000 + i}, DType::f32, memory);
    EXPECT_NE(tensor.view().data, last);
    last = tensor.view().data;
  }
  EXPECT_THROW(Tensor(Shape{1 << 18}, DType::f32, memory), IoError);
  EXPECT_EQ(memory.open(kept.view()).f32()[15], 0.0F);
}

TEST(MappedMemoryDeathTest, ReleasedTwice) {
  MappedMemory memory;
  void* data = memory.allocate(100);
  EXPECT_DEATH(memory.release(data, 64), "another size");
  memory.release(data, 100);
  EXPECT_DEATH(memory.release(data, 100), "released twice");
}

class MappedStreamTest : public ::testing::TestWithParam<Execution> {
 protected:
  MappedMemory memory_;
  MappedStream stream_{memory_, GetParam()};
};

TEST_P(MappedStreamTest, CopiesGoThereAndBack) {
  const Tensor host = counting(1000);
  Tensor a(Shape{1000}, DType::f32, memory_), b(Shape{1000}, DType::f32, memory_);
  copy(stream_, a, host);
  copy(stream_, b, a);
  EXPECT_EQ(read(stream_, b), (std::vector<float>{host.f32().begin(), host.f32().end()}));
  fill(stream_, b.view().rows(1, 998), 2.5F);
  const std::vector<float> values = read(stream_, b);
  EXPECT_EQ(values[0], 1.0F);
  EXPECT_EQ(values[1], 2.5F);
  EXPECT_EQ(values[998], 2.5F);
  EXPECT_EQ(values[999], 1000.0F);
}

TEST_P(MappedStreamTest, TheSourceOfTheHostMayChangeAtOnce) {
  Tensor host = counting(10);
  Tensor device(Shape{10}, DType::f32, memory_);
  copy(stream_, device, host);
  host.f32()[3] = -1;
  EXPECT_EQ(read(stream_, device)[3], 4.0F);
}

TEST_P(MappedStreamTest, OneSideIsTheDevices) {
  Tensor host = counting(10);
  const Tensor source = counting(10);
  EXPECT_THROW(copy(stream_, host, source), InternalError);
  EXPECT_THROW(fill(stream_, host, 0), InternalError);
  Tensor device(Shape{16}, DType::f32, memory_);
  TensorView beyond = device;
  beyond.shape = Shape{17};
  EXPECT_THROW(fill(stream_, beyond, 0), InternalError);
  EXPECT_THROW(copy(stream_, beyond, counting(17)), InternalError);
}

INSTANTIATE_TEST_SUITE_P(Execution, MappedStreamTest, ::testing::Values(Execution::at_once, Execution::late),
                         [](const auto& test) { return name_of(test.param); });

TEST(MappedStreamLate, TheHostsTargetHoldsTheBytesAfterSynchronize) {
  MappedMemory memory;
  MappedStream stream(memory, Execution::late);
  const Tensor source = counting(4);
  Tensor device(Shape{4}, DType::f32, memory), target(Shape{4});
  copy(stream, device, source);
  copy(stream, target, device);
  EXPECT_EQ(target.f32()[3], 0.0F);
  EXPECT_EQ(memory.open(device.view()).f32()[3], 0.0F);
  stream.synchronize();
  EXPECT_EQ(target.f32()[3], 4.0F);
}

TEST(MappedStreamLate, AStreamSeesAnothersWorkAfterItsEventOnly) {
  MappedMemory memory;
  MappedStream first(memory, Execution::late), second(memory, Execution::late);
  Tensor device(Shape{4}, DType::f32, memory);
  copy(first, device, counting(4));
  const Event written = first.record();
  fill(first, device, 7);
  EXPECT_EQ(read(second, device)[3], 0.0F);  // nobody waited
  second.wait(written);
  EXPECT_EQ(read(second, device)[3], 4.0F);  // what comes after the event is not waited for
  EXPECT_EQ(read(first, device)[3], 7.0F);
}

TEST(MappedStreamLate, AskingAnEventComesToAnEnd) {
  MappedMemory memory;
  MappedStream stream(memory, Execution::late);
  EXPECT_TRUE(stream.record().done());
  Tensor device(Shape{4}, DType::f32, memory);
  fill(stream, device, 1);
  fill(stream, device, 2);
  const Event event = stream.record();
  fill(stream, device, 3);
  EXPECT_FALSE(event.done());
  while (!event.done()) {
  }
  EXPECT_EQ(memory.open(device.view()).f32()[0], 2.0F);
  event.synchronize();
  EXPECT_EQ(memory.open(device.view()).f32()[0], 2.0F);
  stream.synchronize();
  EXPECT_EQ(memory.open(device.view()).f32()[0], 3.0F);
}

TEST(MappedStreamLate, MemoryReleasedUnderWorkIsFound) {
  MappedMemory memory;
  MappedStream stream(memory, Execution::late);
  Tensor device(Shape{4}, DType::f32, memory);
  fill(stream, device, 1);
  device = {};
  EXPECT_THROW(stream.synchronize(), InternalError);
}

/// The inner backend, and how late.
class MappedBackendTest : public ::testing::TestWithParam<std::tuple<const char*, Execution>> {
 protected:
  ops::Backend& inner_ = ops::backend_named(std::get<0>(GetParam()));
  MappedBackend mapped_{inner_, std::get<1>(GetParam())};
};

Tensor random_values(Shape shape, uint64_t id) {
  Tensor tensor(shape);
  Random random(1, RandomStream::test, id);
  for (float& value : tensor.f32()) value = static_cast<float>(random.normal());
  return tensor;
}

/// A projection with its bias and GELU, attention over sequences, a sparse product and an update of AdamW:
/// operators with every kind of argument.
std::vector<float> results(ops::Backend& backend) {
  constexpr int64_t kRows = 11, kWidth = 48;
  Memory& memory = backend.memory();
  const std::unique_ptr<Stream> queue = backend.new_stream();
  Stream& stream = *queue;
  Arena arena(memory);
  const auto upload = [&](const Tensor& host) {
    const TensorView view = arena.make(host.shape(), host.dtype());
    copy(stream, view, host);
    return view;
  };
  const TensorView x = upload(random_values(Shape{kRows, kWidth}, 1));
  const TensorView w = upload(random_values(Shape{3 * kWidth, kWidth}, 2));
  const TensorView b = upload(random_values(Shape{3 * kWidth}, 3));
  const TensorView qkv = arena.make(Shape{kRows, 3 * kWidth}), out = arena.make(Shape{kRows, kWidth});
  backend.linear(stream, x, w, b, ops::Activation::gelu, qkv, {});
  const std::array<int64_t, 4> starts{0, 3, 4, kRows};
  backend.attention(stream, qkv, {arena.upload(stream, starts), kRows, 7}, 3, 0.25F, out, {});

  const std::array<int64_t, 3> row_starts{0, 2, 3}, columns{10, 0, 4};
  const std::array<float, 3> weights{0.5F, -2, 3};
  const TensorView sparse = arena.make(Shape{2, kWidth});
  backend.sparse_rows(stream,
                      {arena.upload(stream, row_starts), arena.upload(stream, columns),
                       arena.upload(stream, std::span<const float>(weights))},
                      out, sparse, false);

  const TensorView m = arena.zeros(stream, b.shape), v = arena.zeros(stream, b.shape);
  const std::array<float, 2> factor{0.5F, 1};
  const TensorView factors = arena.upload(stream, std::span<const float>(factor));
  backend.adamw(stream, b, upload(random_values(b.shape, 4)), m, v, {1e-2F, 0.9F, 0.999F, 1e-8F, 0.1F, 1},
                factors.rows(0, 1), factors.rows(1, 1), {});

  std::vector<float> values;
  for (const TensorView view : {qkv, out, sparse, b, m, v}) {
    const std::vector<float> part = read(stream, view);
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

TEST_P(MappedBackendTest, GivesTheBitsOfTheInnerBackend) {
  const std::vector<float> host = results(inner_), mapped = results(mapped_);
  ASSERT_EQ(host.size(), mapped.size());
  EXPECT_EQ(std::memcmp(host.data(), mapped.data(), host.size() * sizeof(float)), 0);
  for (const float value : mapped) ASSERT_TRUE(std::isfinite(value));
}

TEST_P(MappedBackendTest, RefusesWhatIsNotOfTheDevice) {
  const std::unique_ptr<Stream> stream = mapped_.new_stream();
  Tensor device(Shape{16}, DType::f32, mapped_.memory()), host = counting(16);
  EXPECT_THROW(mapped_.scale(*stream, 2, host, device), InternalError);
  EXPECT_THROW(mapped_.scale(*stream, 2, device, host), InternalError);
  HostStream of_the_host;
  EXPECT_THROW(mapped_.scale(of_the_host, 2, device, device), InternalError);
  MappedBackend other(inner_, Execution::at_once);
  const std::unique_ptr<Stream> of_the_other = other.new_stream();
  EXPECT_THROW(mapped_.scale(*of_the_other, 2, device, device), InternalError);
  const TensorView released = Tensor(Shape{16}, DType::f32, mapped_.memory());
  EXPECT_THROW(mapped_.scale(*stream, 2, device, released), InternalError);
  EXPECT_NO_THROW(mapped_.scale(*stream, 2, device, device));
  stream->synchronize();
}

INSTANTIATE_TEST_SUITE_P(Inner, MappedBackendTest,
                         ::testing::Combine(::testing::Values("cpu", "reference"),
                                            ::testing::Values(Execution::at_once, Execution::late)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" +
                                  name_of(std::get<1>(test.param));
                         });

TEST(MappedBackendLate, OperatorsRunWhenSomebodyWaits) {
  MappedBackend backend(ops::backend_named("reference"), Execution::late);
  const std::unique_ptr<Stream> stream = backend.new_stream();
  Tensor device(Shape{16}, DType::f32, backend.memory());
  fill(*stream, device, 3);
  backend.scale(*stream, 2, device, device);
  EXPECT_EQ(backend.memory().open(device.view()).f32()[0], 0.0F);
  stream->synchronize();
  EXPECT_EQ(backend.memory().open(device.view()).f32()[0], 6.0F);
}

}  // namespace
}  // namespace dino::testing
