// SPDX-License-Identifier: Apache-2.0
// The engine on the GPU's own sources, executed on the CPU, against the CPU backend: the same draws, step by
// step, on any number of ranks and with every strategy.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "mapped/training_run.hpp"
#include "ops/accelerator.hpp"

namespace dino::testing {
namespace {

/// Relative, of losses, gradient norms and health. 16 bits round in other places than the CPU's.
double tolerance_of(Precision precision) {
  return precision == Precision::f32 ? 2e-5 : precision == Precision::bf16 ? 2e-2 : 5e-3;
}

double relative_l2(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    size += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / size);
}

void expect_near(const TrainingRun& gpu, const TrainingRun& cpu, const TrainingConfig& config) {
  const double tolerance = tolerance_of(config.precision);
  ASSERT_EQ(gpu.steps.size(), cpu.steps.size());
  for (size_t step = 0; step < cpu.steps.size(); ++step) {
    for (size_t i = 0; i + 1 < cpu.steps[step].size(); ++i)
      EXPECT_NEAR(gpu.steps[step][i], cpu.steps[step][i], tolerance * std::abs(cpu.steps[step][i]))
          << "step " << step << ", number " << i;
    // A count: where two prototypes are almost equal, rounding decides which is a row's largest.
    const double prototypes = static_cast<double>(config.objective.dino_head.prototypes);
    EXPECT_NEAR(gpu.steps[step].back() * prototypes, cpu.steps[step].back() * prototypes, 2.01)
        << "step " << step;
  }
  // AdamW divides by the root of a mean of squares: where a gradient is rounding alone, so is its update.
  const double of_weights = config.precision == Precision::f32 ? 1e-4 : 5e-3;
  EXPECT_LT(relative_l2(gpu.student, cpu.student), of_weights);
  EXPECT_LT(relative_l2(gpu.teacher, cpu.teacher), of_weights);
}

/// One rank alone: the published objective, its variants, and micro-batches; more: every strategy.
std::vector<TrainingCase> cases() {
  constexpr int64_t kSteps = 3;
  const int ranks = Communicator::world().size();
  std::vector<TrainingCase> all = training_cases();
  const TrainingCase published = all.front();
  if (ranks > 1) all = {published, all[1]};
  const auto add = [&](Strategy strategy, int64_t group, int64_t accumulate) {
    all.push_back(published);
    all.back().name = std::string(name_of(strategy)) + "_" + std::to_string(accumulate);
    all.back().config.split.strategy = strategy;
    all.back().config.split.hybrid_ranks = group;
    all.back().config.split.accumulate = accumulate;
  };
  if (ranks == 1) add(Strategy::replicate, 0, 3);
  if (ranks > 1) {
    add(Strategy::optimizer, 0, 1);
    add(Strategy::gradients, 0, 2);
    add(Strategy::full, 0, 1);
  }
  if (ranks == 4) add(Strategy::hybrid, 2, 1);
  for (TrainingCase& given : all) given.steps = kSteps;
  return all;
}

class TrainingOnGpu : public ::testing::TestWithParam<TrainingCase> {
 protected:
  void SetUp() override {
    ops::choose_gpu(Communicator::world().rank());
    ASSERT_NE(ops::gpu_backend(), nullptr);
  }
};

TEST_P(TrainingOnGpu, AgreesWithTheCpu) {
  const Communicator world = Communicator::world();
  const TrainingRun cpu = train(GetParam(), ops::backend_named("cpu"), world);
  expect_near(train(GetParam(), *ops::gpu_backend(), world), cpu, GetParam().config);
}

/// Blocks and threads may run in any order.
TEST(TrainingOnGpuAgain, GivesTheSameBits) {
  const Communicator world = Communicator::world();
  ops::choose_gpu(world.rank());
  ASSERT_NE(ops::gpu_backend(), nullptr);
  TrainingCase given = training_cases()[1];
  given.steps = 2;
  const TrainingRun first = train(given, *ops::gpu_backend(), world);
  expect_same(train(given, *ops::gpu_backend(), world), first);
}

INSTANTIATE_TEST_SUITE_P(Cases, TrainingOnGpu, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace dino::testing
