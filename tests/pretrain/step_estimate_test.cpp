// SPDX-License-Identifier: Apache-2.0
#include "step_estimate.hpp"

#include <gtest/gtest.h>

#include "step_shape.hpp"

namespace dino::pretrain {
namespace {

StepShape small_shape() {
  StepShape shape;
  shape.preset = "vit_micro";
  shape.crops = "2x32,2x16";
  shape.batch = 6;
  shape.prototypes = 64;
  shape.bottleneck = 16;
  shape.head_hidden = 32;
  return shape;
}

/// Ranks that are not there take part in every split: in parts of the weights, sums and gathers.
TEST(StepEstimate, AShortStepIsTimedAsItIs) {
  for (const Strategy strategy :
       {Strategy::replicate, Strategy::optimizer, Strategy::gradients, Strategy::full}) {
    StepShape shape = small_shape();
    shape.split.strategy = strategy;
    shape.split.accumulate = 2;
    shape.drop_path = 0.3;
    const StepEstimate step = estimate_step(train_config(shape), 3, Communicator::self());
    EXPECT_GT(step.seconds(), 0);
    EXPECT_EQ(step.images, 2);
    EXPECT_EQ(step.depth, 2);
    EXPECT_GT(step.phases.at("backward"), 0);
  }
}

TEST(StepEstimate, OtherRanksHaveOtherMomentsAndTheSameRest) {
  const StepEstimate step{{{"backward", 3}, {"optimizer", 2}, {"settle", 1}}, 4, 12};
  EXPECT_DOUBLE_EQ(step.seconds(), 6);
  EXPECT_DOUBLE_EQ(step.with_moments(0.5).seconds(), 4.5);
}

}  // namespace
}  // namespace dino::pretrain
