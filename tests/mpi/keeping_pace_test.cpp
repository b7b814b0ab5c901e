// SPDX-License-Identifier: Apache-2.0
#include "comm/keeping_pace.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "base/error.hpp"

namespace dino {
namespace {

void rest(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

/// Units done by this rank out of `units`, each of which takes `milliseconds`.
int work(KeepingPace& pace, int units, int milliseconds, int stop_after = -1) {
  int done = 0;
  for (; done < units && pace.step(done == stop_after); ++done) rest(milliseconds);
  return done;
}

TEST(KeepingPace, UnevenWorkIsDone) {
  const Communicator world = Communicator::world();
  for (int round = 0; round < 3; ++round) {
    KeepingPace pace(world);
    const int units = 20 * world.rank();  // rank 0 has none
    EXPECT_EQ(work(pace, units, 1), units);
    EXPECT_FALSE(pace.finish(false));
  }
}

TEST(KeepingPace, WorkOfTheOthersIsKnownInTheEnd) {
  const Communicator world = Communicator::world();
  KeepingPace pace(world);
  const auto mine = static_cast<int64_t>(5 + world.rank());
  for (int64_t done = 1; done <= mine && pace.step(false); ++done) {
    pace.count(done);
    EXPECT_GE(pace.done_elsewhere(), 0);
  }
  EXPECT_FALSE(pace.finish(false));
  EXPECT_EQ(pace.done_elsewhere(), world.sum(mine) - mine);
}

TEST(KeepingPace, AFailureEndsTheOthersAtTheirNextUnit) {
  const Communicator world = Communicator::world();
  KeepingPace pace(world);
  const int last = world.size() - 1;
  int done = 0;
  RankFailure failure;
  if (world.rank() == last)
    failure = {"bad disk", 74};
  else
    done = work(pace, 1000, 5);
  EXPECT_LT(done, 1000);
  try {
    (void)pace.finish(world.rank() != last, failure);
    FAIL() << "nothing was thrown";
  } catch (const IoError& error) {
    EXPECT_EQ(std::string(error.what()).substr(0, 8), "bad disk");
  }
}

TEST(KeepingPace, AStopOfOneRankStopsAll) {
  const Communicator world = Communicator::world();
  KeepingPace pace(world);
  const int done = work(pace, 1000, 5, world.rank() == world.size() - 1 ? 3 : -1);
  EXPECT_LT(done, 1000);
  EXPECT_TRUE(pace.finish(true));
}

TEST(KeepingPace, AFailureThatSaysStoppedIsAStop) {
  const Communicator world = Communicator::world();
  KeepingPace pace(world);
  const bool last = world.rank() == world.size() - 1;
  EXPECT_TRUE(pace.finish(false, last ? RankFailure{"asked to stop", 75} : RankFailure{}));
}

}  // namespace
}  // namespace dino
