// SPDX-License-Identifier: Apache-2.0
// A phase's time is what its work takes on the device, whenever the host enqueues it; and what a rank's
// device stands still for others is told apart.
#include <gtest/gtest.h>

#include <cmath>

#include "mapped/training_run.hpp"
#include "ops/accelerator.hpp"
#include "simt/device.hpp"

namespace dino::testing {
namespace {

/// So long that no host's time is as long, and of which every sum is exact in the clock's nanoseconds.
constexpr double kLong = 1000;

class TrainingTimes : public ::testing::Test {
 protected:
  TrainingTimes() {
    ops::choose_gpu(world_.rank());
    // One rank has no collectives; of more, all parts of the state are gathered and reduced.
    if (world_.size() > 1) given_.config.split.strategy = Strategy::full;
    given_.steps = 3;
  }
  ~TrainingTimes() override { simt::set_pace({}); }
  /// A run where the pace alone takes time.
  [[nodiscard]] TrainingRun at(const simt::Pace& pace) const {
    simt::set_pace(pace);
    return train(given_, *ops::gpu_backend(), world_);
  }
  Communicator world_ = Communicator::world();
  TrainingCase given_ = training_cases()[1];
};

TEST_F(TrainingTimes, PhasesAreTheirKernels) {
  const TrainingRun run = at({kLong, 0, 0, 0, 0, 0});
  for (size_t step = 0; step < run.phases.size(); ++step) {
    double sum = 0;
    for (const auto& [name, seconds] : run.phases[step]) {
      sum += seconds;
      EXPECT_NEAR(std::remainder(seconds, kLong), 0, 1e-2) << name << " is so many kernels";
      const bool none = name == "optimizer" && step == 0;  // it is the step before's
      const bool any = none || name == "prepare" || name == "reduce";
      EXPECT_GE(seconds, any ? -1e-2 : 0.9 * kLong) << name;
      EXPECT_LE(seconds, none ? 1e-2 : 1e9) << name;
    }
    ASSERT_TRUE(run.device_seconds[step].has_value());
    EXPECT_NEAR(*run.device_seconds[step], sum, 1e-2);
    EXPECT_GT(run.phases[step].at("backward"), run.phases[step].at("student_forward"));
  }
  EXPECT_EQ(run.phases[1].size(), 8u);
  EXPECT_NEAR(run.phases[1].at("optimizer"), run.phases[2].at("optimizer"), 1e-2);
}

TEST_F(TrainingTimes, WaitsForOthersAreInTheirPhases) {
  const TrainingRun run = at({0, 0, 0, 0, kLong, 0});
  for (const std::map<std::string, double>& phases : run.phases) {
    if (world_.size() == 1) {
      for (const auto& [name, seconds] : phases) EXPECT_NEAR(seconds, 0, 1e-2) << name;
    } else {
      EXPECT_GT(phases.at("teacher"), 0.9 * kLong) << "the first unit's values come from others";
      EXPECT_GT(phases.at("reduce"), 0.9 * kLong);
      EXPECT_GT(phases.at("settle"), 0.9 * kLong);
    }
  }
}

TEST_F(TrainingTimes, TheHostsClockIsTheCpus) {
  const TrainingRun run = train(given_, ops::backend_named("cpu"), world_);
  for (size_t step = 0; step < run.phases.size(); ++step) {
    EXPECT_FALSE(run.device_seconds[step].has_value());
    EXPECT_GT(run.phases[step].at("backward"), 0);
  }
}

}  // namespace
}  // namespace dino::testing
