// SPDX-License-Identifier: Apache-2.0
// Collectives among GPUs, over the stand-in of NCCL and staged through the host, against MPI's on the host.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.hpp"
#include "comm/cuda/nccl_collective.hpp"
#include "simt/device.hpp"

namespace dino::cuda {
namespace {

Tensor drawn(DType dtype, int64_t n, int rank) {
  Tensor values(Shape{n}, dtype);
  for (int64_t i = 0; i < n; ++i) {
    // Many magnitudes, so that another order of a sum has other bits.
    const double value = std::sin(static_cast<double>(i * 7 + rank * 13 + 1)) *
                         std::exp2(static_cast<double>((i + 3 * rank) % 11 - 5));
    if (dtype == DType::f32) values.as<float>()[i] = static_cast<float>(value);
    if (dtype == DType::f64) values.as<double>()[i] = value;
    if (dtype == DType::bf16) values.as<bf16>()[i] = bf16(static_cast<float>(value));
    if (dtype == DType::f16) values.as<f16>()[i] = f16(static_cast<float>(value));
    if (dtype == DType::i64) values.as<int64_t>()[i] = static_cast<int64_t>(value * 1e6);
  }
  return values;
}

enum class Way : uint8_t { nccl, staged };

/// Which way, how long messages may be (whole operations, or many pieces), and the order of the streams'
/// work.
class GpuCollective : public ::testing::TestWithParam<std::tuple<Way, int64_t, uint64_t>> {
 protected:
  GpuCollective() {
    set_message_bytes(std::get<1>(GetParam()));
    simt::set_order(std::get<2>(GetParam()));
    use_device(0);
    host_ = make_mpi_collective(world_);
    device_ = std::get<0>(GetParam()) == Way::nccl
                  ? make_nccl_collective(world_, memory_)
                  : make_staged_collective(make_mpi_collective(world_), memory_);
  }
  ~GpuCollective() override {
    device_.reset();
    set_message_bytes(int64_t{1} << 30);
    simt::set_order(0);
  }
  [[nodiscard]] std::vector<int64_t> sizes() const {
    if (std::get<1>(GetParam()) < 100000) return {1, 701};
    return {0, 5, 17001};
  }

  /// `operation(collective, stream, tensor)` on the GPU leaves the bits that it leaves on the host, in the
  /// rows [begin, end).
  template <class Operation>
  void expect_same(Collective& host, Collective& device, const Tensor& values, const Operation& operation,
                   int64_t begin, int64_t end, const std::string& what) {
    Tensor expected = values.clone(), got(values.shape(), values.dtype());
    HostStream host_stream;
    operation(host, host_stream, expected.view()).synchronize();
    Tensor there = Tensor::uninitialised(values.shape(), values.dtype(), memory_);
    copy(stream_, there, values);
    const Event done = operation(device, stream_, there.view());
    if (begin % 2 == 0)
      stream_.wait(done);
    else
      done.synchronize();
    copy(stream_, got, there);
    stream_.synchronize();
    const size_t width = size_of(values.dtype());
    const auto bytes = [&](const Tensor& t) {
      return static_cast<const std::byte*>(t.view().data) + static_cast<size_t>(begin) * width;
    };
    EXPECT_EQ(std::memcmp(bytes(expected), bytes(got), static_cast<size_t>(end - begin) * width), 0)
        << what << " of " << values.numel() << " " << name_of(values.dtype());
  }
  void expect_all_same(Collective& host, Collective& device) {
    const auto sum = [](Collective& c, Stream& s, TensorView v) { return c.all_reduce(s, v); };
    const auto least = [](Collective& c, Stream& s, TensorView v) {
      return c.all_reduce(s, v, ReduceOp::min);
    };
    const auto most = [](Collective& c, Stream& s, TensorView v) {
      return c.all_reduce(s, v, ReduceOp::max);
    };
    const auto scatter = [](Collective& c, Stream& s, TensorView v) { return c.reduce_scatter(s, v); };
    const auto gather = [](Collective& c, Stream& s, TensorView v) { return c.all_gather(s, v); };
    const int64_t ranks = host.size(), rank = host.rank();
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64}) {
      for (const int64_t n : sizes()) {
        const Tensor values = drawn(dtype, n, world_.rank()), parts = drawn(dtype, n * ranks, world_.rank());
        expect_same(host, device, values, sum, 0, n, "sum");
        if (dtype != DType::bf16 && dtype != DType::f16) {
          expect_same(host, device, values, least, 0, n, "minimum");
          expect_same(host, device, values, most, 0, n, "maximum");
        }
        if (dtype != DType::i64)
          expect_same(host, device, parts, scatter, rank * n, (rank + 1) * n, "scattered sum");
        expect_same(host, device, parts, gather, 0, n * ranks, "gather");
      }
    }
  }

  Communicator world_ = Communicator::world();
  CudaMemory memory_{0};
  CudaStream stream_{memory_};
  std::unique_ptr<Collective> host_, device_;
};

TEST_P(GpuCollective, HasTheBitsOfTheHost) {
  EXPECT_EQ(device_->rank(), world_.rank());
  EXPECT_EQ(device_->size(), world_.size());
  expect_all_same(*host_, *device_);
}

TEST_P(GpuCollective, GroupsHaveTheBitsOfTheHost) {
  for (const int groups : {2, 3}) {
    const auto colour = [groups](int rank) { return rank % groups; };
    const auto host = host_->split(colour), device = device_->split(colour);
    ASSERT_EQ(device->rank(), host->rank());
    ASSERT_EQ(device->size(), host->size());
    expect_all_same(*host, *device);
  }
}

TEST_P(GpuCollective, CountsItsUse) {
  const auto whole = [this](Collective& collective, Stream& stream, Memory& memory) {
    Tensor values(Shape{8 * world_.size()}, DType::f32, memory);
    collective.all_reduce(stream, values).synchronize();
    collective.all_gather(stream, values).synchronize();
    const auto part = collective.split([](int rank) { return rank / 2; });
    part->reduce_scatter(stream, values.view().rows(0, part->size())).synchronize();
    stream.synchronize();
  };
  HostStream host_stream;
  whole(*host_, host_stream, Memory::host());
  whole(*device_, stream_, memory_);
  for (const auto member :
       {&CollectiveUse::all_reduce, &CollectiveUse::all_gather, &CollectiveUse::reduce_scatter}) {
    EXPECT_EQ((device_->use().*member).count, (host_->use().*member).count);
    EXPECT_EQ((device_->use().*member).bytes, (host_->use().*member).bytes);
  }
}

TEST_P(GpuCollective, RunsBesideTheStreamThatWaitsLater) {
  constexpr int64_t kN = 2000;
  const Tensor first = drawn(DType::f32, kN, world_.rank()),
               second = drawn(DType::f32, kN, world_.rank() + 5);
  Tensor a = Tensor::uninitialised(Shape{kN}, DType::f32, memory_),
         b = Tensor::uninitialised(Shape{kN}, DType::f32, memory_);
  copy(stream_, a, first);
  const Event summed_a = device_->all_reduce(stream_, a);
  copy(stream_, b, second);
  const Event summed_b = device_->all_reduce(stream_, b);
  device_->poll();
  stream_.wait(summed_b);
  stream_.wait(summed_a);
  Tensor got_a(Shape{kN}), got_b(Shape{kN}), expected_a = first.clone(), expected_b = second.clone();
  copy(stream_, got_a, a);
  copy(stream_, got_b, b);
  stream_.synchronize();
  EXPECT_TRUE(summed_a.done());
  EXPECT_TRUE(summed_b.done());
  HostStream host_stream;
  host_->all_reduce(host_stream, expected_a).synchronize();
  host_->all_reduce(host_stream, expected_b).synchronize();
  EXPECT_EQ(std::memcmp(got_a.view().data, expected_a.view().data, sizeof(float) * kN), 0);
  EXPECT_EQ(std::memcmp(got_b.view().data, expected_b.view().data, sizeof(float) * kN), 0);
}

TEST_P(GpuCollective, CountsHowLongAStreamStoodStill) {
  if (std::get<0>(GetParam()) != Way::nccl) return;  // the host waits there
  // Messages take a second, and so does a fill; all else nothing.
  simt::set_pace({0, 0, 1, 0, 1, 0});
  Tensor values = Tensor::uninitialised(Shape{4 * world_.size()}, DType::f32, memory_),
         other = Tensor::uninitialised(Shape{4}, DType::f32, memory_);
  stream_.synchronize();
  ASSERT_NE(stream_.clock(), nullptr);
  const auto waited = [&](int fills) {
    const double before = device_->use().wait_seconds();
    const Event done = device_->all_gather(stream_, values);
    for (int i = 0; i < fills; ++i) fill(stream_, other, 1);
    stream_.wait(done);
    EXPECT_EQ(device_->use().wait_seconds(), before);
    stream_.synchronize();
    (void)stream_.clock()->take();
    return device_->use().wait_seconds() - before;
  };
  const double alone = world_.size() == 1 ? 0 : 1;
  EXPECT_NEAR(waited(0), alone, 1e-9);
  EXPECT_NEAR(waited(1), 0, 1e-9) << "hidden behind work";
  EXPECT_NEAR(waited(3), 0, 1e-9);
  simt::set_pace({0, 0, 0.25, 0, 1, 0});
  EXPECT_NEAR(waited(1), 0.75 * alone, 1e-9);
  simt::set_pace({});
}

TEST_P(GpuCollective, RefusesWhatItCannotAdd) {
  Tensor bytes(Shape{4 * world_.size()}, DType::u8, memory_), half(Shape{4}, DType::bf16, memory_),
      odd(Shape{world_.size() + 1}, DType::f32, memory_);
  if (world_.size() == 1) return;  // nothing is added there
  EXPECT_THROW((void)device_->all_reduce(stream_, half, ReduceOp::max), InternalError);
  EXPECT_THROW((void)device_->all_gather(stream_, odd), InternalError);
  EXPECT_THROW((void)device_->reduce_scatter(stream_, odd), InternalError);
  Tensor host(Shape{4});
  EXPECT_THROW((void)device_->all_reduce(stream_, host), InternalError);
}

INSTANTIATE_TEST_SUITE_P(Ways, GpuCollective,
                         ::testing::Combine(::testing::Values(Way::nccl, Way::staged),
                                            ::testing::Values(int64_t{1} << 30, int64_t{2048}),
                                            ::testing::Values(uint64_t{0}, uint64_t{7})),
                         [](const auto& values) {
                           return std::string(std::get<0>(values.param) == Way::nccl ? "nccl" : "staged") +
                                  (std::get<1>(values.param) < 100000 ? "_pieces" : "_whole") + "_" +
                                  std::to_string(std::get<2>(values.param));
                         });

TEST(GpuCollectiveChoice, TheEnvironmentIsHeard) {
  const Communicator world = Communicator::world();
  CudaMemory memory(0);
  ::setenv("DINO_NCCL", "maybe", 1);
  if (world.size() > 1) {
    EXPECT_THROW((void)make_nccl_collective(world, memory), UsageError);
  }
  ::setenv("DINO_NCCL", "off", 1);
  ::testing::internal::CaptureStderr();
  const auto staged = make_nccl_collective(world, memory);
  const std::string said = ::testing::internal::GetCapturedStderr();
  ::unsetenv("DINO_NCCL");
  EXPECT_EQ(staged->size(), world.size());
  EXPECT_EQ(said.find("DINO_NCCL=off") != std::string::npos, world.size() > 1) << said;
}

}  // namespace
}  // namespace dino::cuda
