// SPDX-License-Identifier: Apache-2.0
#include "quoted_runs.hpp"

#include <gtest/gtest.h>

namespace dino::pretrain {
namespace {

/// Two numbers of one source: a rate in operations, and images a second.
TEST(QuotedRuns, OperationsOfAnImageGiveTheirImagesPerSecond) {
  int with_rate = 0;
  for (const QuotedRun& run : quoted_runs()) {
    if (run.tflops == 0) continue;
    ++with_rate;
    EXPECT_NEAR(counted_images_per_second(run) / run.images_per_second, 1, 0.1) << run.name;
  }
  EXPECT_EQ(with_rate, 3);
}

}  // namespace
}  // namespace dino::pretrain
