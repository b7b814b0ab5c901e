// SPDX-License-Identifier: Apache-2.0
// Collectives and the self-distillation step on a device that the host cannot touch.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "mapped/backend.hpp"
#include "mapped/collective.hpp"
#include "mapped/training_run.hpp"

namespace dino::testing {
namespace {

class MappedCollectiveTest : public ::testing::TestWithParam<Execution> {
 protected:
  Communicator world_ = Communicator::world();
  MappedMemory memory_;
  MappedStream stream_{memory_, GetParam()};
  HostStream host_stream_;
  std::unique_ptr<Collective> host_ = make_mpi_collective(world_);
  std::unique_ptr<Collective> mapped_ = make_mapped_collective(memory_, make_mpi_collective(world_));

  [[nodiscard]] Tensor on_device(const Tensor& host) {
    Tensor tensor = Tensor::uninitialised(host.shape(), host.dtype(), memory_);
    copy(stream_, tensor, host);
    return tensor;
  }
  void expect_same(const Tensor& device, const Tensor& host) {
    Tensor back(host.shape(), host.dtype());
    copy(stream_, back, device);
    stream_.synchronize();
    EXPECT_EQ(std::memcmp(back.view().data, host.view().data, static_cast<size_t>(host.bytes())), 0);
  }
};

Tensor sines(int rank, int64_t n) {
  Tensor values(Shape{n});
  for (int64_t i = 0; i < n; ++i)
    values.f32()[static_cast<size_t>(i)] = std::sin(static_cast<float>(i * 7 + rank * 13 + 1));
  return values;
}

TEST_P(MappedCollectiveTest, ReducesLikeTheHosts) {
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::min, ReduceOp::max})
    for (const int64_t n : {int64_t{0}, int64_t{5}, int64_t{40003}}) {
      Tensor host = sines(world_.rank(), n), device = on_device(host);
      host_stream_.wait(host_->all_reduce(host_stream_, host, op));
      stream_.wait(mapped_->all_reduce(stream_, device, op));
      expect_same(device, host);
    }
  Tensor counts(Shape{1}, DType::i64);
  counts.as<int64_t>()[0] = world_.rank() + (int64_t{1} << 60);
  Tensor device = on_device(counts);
  host_stream_.wait(host_->all_reduce(host_stream_, counts, ReduceOp::max));
  stream_.wait(mapped_->all_reduce(stream_, device, ReduceOp::max));
  expect_same(device, counts);
}

TEST_P(MappedCollectiveTest, GathersLikeTheHosts) {
  Tensor host(Shape{world_.size(), 33}, DType::i64);
  for (int64_t i = 0; i < 33; ++i) host.as<int64_t>()[world_.rank() * 33 + i] = world_.rank() * 1000 + i;
  Tensor device = on_device(host);
  host_stream_.wait(host_->all_gather(host_stream_, host));
  stream_.wait(mapped_->all_gather(stream_, device));
  expect_same(device, host);
}

TEST_P(MappedCollectiveTest, TheResultIsThereForThoseWhoWait) {
  Tensor host = sines(world_.rank(), 100), first = on_device(host), second = on_device(host);
  const std::vector<Event> events{mapped_->all_reduce(stream_, first), mapped_->all_reduce(stream_, second)};
  host_stream_.wait(host_->all_reduce(host_stream_, host));
  for (const float value : memory_.open(first.view()).f32()) ASSERT_TRUE(std::isnan(value));
  while (!events[0].done()) mapped_->poll();
  expect_same(first, host);
  for (const float value : memory_.open(second.view()).f32()) ASSERT_TRUE(std::isnan(value));
  events[1].synchronize();
  expect_same(second, host);
}

INSTANTIATE_TEST_SUITE_P(Execution, MappedCollectiveTest,
                         ::testing::Values(Execution::at_once, Execution::late),
                         [](const auto& test) { return name_of(test.param); });

/// Gradients, losses, Sinkhorn's sums and KoLeo's neighbours cross the ranks; what is read before it has
/// arrived is not a number.
TEST(MappedTraining, GivesTheBitsOfTheHost) {
  const Communicator world = Communicator::world();
  ops::Backend& cpu = ops::backend_named("cpu");
  std::vector<TrainingCase> cases = training_cases();
  for (const auto& [split, reduce] : {std::pair{SplitConfig{Strategy::full, 0, 2}, Precision::f32},
                                      {SplitConfig{Strategy::gradients, 0, 1}, Precision::bf16},
                                      {SplitConfig{Strategy::optimizer, 0, 3}, Precision::f32},
                                      {SplitConfig{Strategy::replicate, 0, 2}, Precision::f16}}) {
    cases.push_back(cases.front());
    cases.back().name += "_" + std::string(name_of(split.strategy));
    cases.back().config.split = split;
    cases.back().config.reduce_precision = reduce;
    cases.back().config.loss_scale = 16;
  }
  for (const TrainingCase& given : cases) {
    const TrainingRun host = train(given, cpu, world);
    for (const Execution execution : {Execution::at_once, Execution::late}) {
      SCOPED_TRACE(given.name + " " + name_of(execution));
      MappedBackend device(cpu, execution);
      expect_same(train(given, device, world), host);
    }
  }
}

}  // namespace
}  // namespace dino::testing
