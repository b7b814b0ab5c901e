// SPDX-License-Identifier: Apache-2.0
#include "comm/together.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

#include "base/error.hpp"

namespace dino {
namespace {

/// The message of the E that `body` throws.
template <class E>
std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Together, RunsOnEveryRank) {
  const Communicator world = Communicator::world();
  int64_t ran = 0;
  together(world, [&] { ran = 1; });
  EXPECT_EQ(world.sum(ran), world.size());
}

TEST(Together, OneFailureIsEveryonesFailure) {
  const Communicator world = Communicator::world();
  const int last = world.size() - 1;
  EXPECT_EQ(message_of<DataError>([&] {
              together(world, [&] {
                if (world.rank() == last) throw DataError("bad tar: x.tar: no header");
              });
            }),
            "bad tar: x.tar: no header");
}

TEST(Together, TheLowestRanksFailureIsTold) {
  const Communicator world = Communicator::world();
  const std::string place = world.size() > 1 ? " [rank 0]" : "";
  EXPECT_EQ(message_of<IoError>([&] {
              together(world, [&] {
                if (world.root()) throw IoError("from 0");
                throw MissingInputError("from another");
              });
            }),
            "from 0" + place);
}

TEST(Together, OnlyErrorsAreSettled) {
  // Another exception means a defect: it leaves at once, on the rank where it is.
  EXPECT_THROW((void)failure_of([] { throw std::logic_error("defect"); }), std::logic_error);
  EXPECT_EQ(failure_of([] { throw UsageError("wrong"); }).code, 64);
  EXPECT_TRUE(failure_of([] {}).message.empty());
}

TEST(OnRoot, RunsOnceAndFailsEverywhere) {
  const Communicator world = Communicator::world();
  int64_t ran = 0;
  on_root(world, [&] { ran = 1; });
  EXPECT_EQ(ran, world.root() ? 1 : 0);
  EXPECT_EQ(
      message_of<UpstreamError>([&] { on_root(world, [] { throw UpstreamError("stage is missing"); }); }),
      "stage is missing");
}

TEST(OnRoot, AStopIsEveryonesStop) {
  const Communicator world = Communicator::world();
  try {
    on_root(world, [] { throw Error(ExitCode::stopped, "asked to stop"); });
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::stopped);
  }
}

TEST(Settle, AloneItThrowsAtOnce) {
  EXPECT_THROW(settle(Communicator::self(), {"alone", 64}), UsageError);
}

}  // namespace
}  // namespace dino
