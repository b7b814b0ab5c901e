// SPDX-License-Identifier: Apache-2.0
#include "timed_steps.hpp"

#include <gtest/gtest.h>

#include "step_shape.hpp"

namespace dino::pretrain {
namespace {

/// Also where the run begins with a frozen backbone: what that saves is counted apart.
TEST(TimedSteps, AreThoseOfALearningBackbone) {
  StepShape shape;
  shape.preset = "vit_micro";
  shape.crops = "2x32,2x16";
  shape.batch = 2;
  shape.prototypes = 64;
  shape.bottleneck = 16;
  shape.head_hidden = 32;
  TrainConfig config = train_config(shape);
  config.freeze_backbone_steps = StepCount(config.steps);
  const Timings timings = time_steps(config, Communicator::self(), 0, 1);
  EXPECT_TRUE(timings.finite);
  EXPECT_GT(timings.phases.at("backward"), 0);
}

}  // namespace
}  // namespace dino::pretrain
