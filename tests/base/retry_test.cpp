// SPDX-License-Identifier: Apache-2.0
#include "base/retry.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <thread>

#include "base/loop_failure.hpp"
#include "base/signals.hpp"

namespace dino {
namespace {

class RetryTest : public ::testing::Test {
 protected:
  ~RetryTest() override {
    clear_stop_request();
    set_retry_seconds(30);
  }
};

TEST_F(RetryTest, ReturnsWhatTheFirstGoodTryReturns) {
  set_retry_seconds(5);
  int tries = 0;
  const int value = retrying("a", [&] {
    if (++tries < 4) throw IoError("cannot read: a: Input/output error");
    return 7;
  });
  EXPECT_EQ(value, 7);
  EXPECT_EQ(tries, 4);
  EXPECT_EQ(retrying_now(), "");
}

TEST_F(RetryTest, GivesUpAfterItsTimeAndThenWaitsForNoOtherFile) {
  set_retry_seconds(0.3);
  const auto begin = std::chrono::steady_clock::now();
  try {
    retrying("a", [] { throw IoError("cannot read: a: Stale file handle"); });
    FAIL();
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("a: Stale file handle"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("--retry-seconds"), std::string::npos);
  }
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(290));
  int tries = 0;
  EXPECT_THROW(retrying("b",
                        [&] {
                          ++tries;
                          throw IoError("b");
                        }),
               IoError);
  EXPECT_EQ(tries, 1);
}

TEST_F(RetryTest, AnInnerTryLeavesItToTheOuterOne) {
  set_retry_seconds(5);
  int outer = 0, inner = 0;
  retrying("a", [&] {
    ++outer;
    retrying("a", [&] {
      if (++inner < 3) throw IoError("x");
    });
  });
  EXPECT_EQ(outer, 3);
  EXPECT_EQ(inner, 3);
}

TEST_F(RetryTest, ZeroSecondsTryOnce) {
  set_retry_seconds(0);
  int tries = 0;
  EXPECT_THROW(retrying("a",
                        [&] {
                          ++tries;
                          throw IoError("x");
                        }),
               IoError);
  EXPECT_EQ(tries, 1);
}

TEST_F(RetryTest, WrongDataAreNotTriedAgain) {
  set_retry_seconds(5);
  int tries = 0;
  EXPECT_THROW(retrying("a",
                        [&] {
                          ++tries;
                          throw DataError("x");
                        }),
               DataError);
  EXPECT_EQ(tries, 1);
}

TEST_F(RetryTest, AStopEndsTheWait) {
  set_retry_seconds(60);
  std::thread other([] {
    while (retrying_now() != "a") std::this_thread::yield();
    request_stop();
  });
  try {
    retrying("a", [] { throw IoError("cannot read: a: Input/output error"); });
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::stopped);
  }
  other.join();
}

TEST_F(RetryTest, FaultsOfTheFileSystemAreKnown) {
  for (const int error : {EIO, ESTALE, ENOTCONN, ETIMEDOUT, EINTR, EAGAIN})
    EXPECT_TRUE(is_passing_fault(error));
  for (const int error : {ENOENT, EACCES, ENOTDIR}) {
    EXPECT_FALSE(is_passing_fault(error));
    EXPECT_TRUE(is_lost_file(error));
  }
  EXPECT_FALSE(is_passing_fault(ENOSPC));
}

TEST(LoopFailure, KeepsTheFirstAndLeavesOutTheRest) {
  LoopFailure failure;
  int begun = 0;
  for (int i = 0; i < 5; ++i)
    failure.guard([&] {
      ++begun;
      if (i == 1) throw IoError("one");
    });
  EXPECT_EQ(begun, 2);
  EXPECT_THROW(failure.rethrow(), IoError);
}

}  // namespace
}  // namespace dino
