// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.hpp"
#include "base/random.hpp"

namespace dino {
namespace {

/// The value that rank `rank` holds at `i`; any rank can compute all of them.
float value_of(int rank, size_t i) {
  Random random(9, RandomStream::test, static_cast<uint64_t>(rank) * 1000003u + i);
  return static_cast<float>(random.normal()) * (i % 3 == 0 ? 1e6f : 1e-3f);
}

std::vector<float> values_of(int rank, size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = value_of(rank, i);
  return values;
}

/// Naive reference: the sum in rank order, in double.
std::vector<float> summed(int ranks, size_t n) {
  std::vector<float> sums(n);
  for (size_t i = 0; i < n; ++i) {
    double total = 0;
    for (int r = 0; r < ranks; ++r) total += static_cast<double>(value_of(r, i));
    sums[i] = static_cast<float>(total);
  }
  return sums;
}

std::vector<std::byte> bytes_of(int from, int to, size_t n) {
  std::vector<std::byte> bytes(n);
  for (size_t i = 0; i < n; ++i)
    bytes[i] = static_cast<std::byte>((static_cast<size_t>(from * 31 + to * 7) + i) % 251);
  return bytes;
}

/// Every test runs with whole messages and with messages of 64 bytes.
class CommunicatorTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { set_message_bytes(GetParam()); }
  void TearDown() override { set_message_bytes(int64_t{1} << 30); }
  Communicator world = Communicator::world();
};

TEST_P(CommunicatorTest, FloatSumsFollowTheRankOrder) {
  for (const size_t n : {0u, 1u, 3u, 17u, 1000u, 40007u}) {
    if (n > 1000 && GetParam() < 1000) continue;
    std::vector<float> values = values_of(world.rank(), n);
    world.all_reduce(std::span(values));
    EXPECT_EQ(values, summed(world.size(), n)) << n;
  }
}

TEST_P(CommunicatorTest, DoubleSumsMinimaAndMaxima) {
  const int P = world.size();
  std::vector<double> values(37);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.1 * world.rank() + static_cast<double>(i);
  std::vector<double> low = values, high = values;
  world.all_reduce(std::span(values));
  world.all_reduce(std::span(low), ReduceOp::min);
  world.all_reduce(std::span(high), ReduceOp::max);
  for (size_t i = 0; i < values.size(); ++i) {
    double total = 0;
    for (int r = 0; r < P; ++r) total += 0.1 * r + static_cast<double>(i);
    EXPECT_EQ(values[i], total);
    EXPECT_EQ(low[i], static_cast<double>(i));
    EXPECT_EQ(high[i], 0.1 * (P - 1) + static_cast<double>(i));
  }
  std::vector<float> f = {static_cast<float>(world.rank())};
  world.all_reduce(std::span(f), ReduceOp::max);
  EXPECT_EQ(f[0], static_cast<float>(P - 1));
}

TEST_P(CommunicatorTest, Scalars) {
  const int P = world.size();
  const int64_t r = world.rank();
  EXPECT_EQ(world.sum(r + 1), int64_t{P} * (P + 1) / 2);
  EXPECT_EQ(world.max(r * 3), 3 * (P - 1));
  EXPECT_EQ(world.sum(0.5), 0.5 * P);
  EXPECT_EQ(world.max(-1.0 - static_cast<double>(r)), -1.0);
  EXPECT_TRUE(world.any(r == P - 1));
  EXPECT_FALSE(world.any(false));
  EXPECT_EQ(world.exclusive_scan(r + 1), r * (r + 1) / 2);
  world.barrier();
}

TEST_P(CommunicatorTest, BroadcastFromEveryRoot) {
  for (int root = 0; root < world.size(); ++root) {
    std::vector<std::byte> bytes =
        world.rank() == root ? bytes_of(root, 0, 333) : std::vector<std::byte>(333);
    world.broadcast(std::span(bytes), root);
    EXPECT_EQ(bytes, bytes_of(root, 0, 333));
    std::string text = world.rank() == root ? std::string(200, 'x') + "y" : "something else";
    world.broadcast(text, root);
    EXPECT_EQ(text, std::string(200, 'x') + "y");
    std::string empty = world.rank() == root ? "" : "something else";
    world.broadcast(empty, root);
    EXPECT_EQ(empty, "");
  }
}

TEST_P(CommunicatorTest, GathersWithEmptyRanks) {
  // Odd ranks hold nothing.
  const auto size_on = [](int rank) {
    return rank % 2 == 1 ? size_t{0} : static_cast<size_t>(100 + 13 * rank);
  };
  std::vector<std::byte> expected;
  for (int r = 0; r < world.size(); ++r) {
    const std::vector<std::byte> part = bytes_of(r, 1, size_on(r));
    expected.insert(expected.end(), part.begin(), part.end());
  }
  const std::vector<std::byte> mine = bytes_of(world.rank(), 1, size_on(world.rank()));
  std::vector<int64_t> counts;
  EXPECT_EQ(world.all_gather(mine, &counts), expected);
  ASSERT_EQ(static_cast<int>(counts.size()), world.size());
  for (int r = 0; r < world.size(); ++r)
    EXPECT_EQ(counts[static_cast<size_t>(r)], static_cast<int64_t>(size_on(r)));
  for (int root = 0; root < world.size(); ++root)
    EXPECT_EQ(world.gather(mine, root), world.rank() == root ? expected : std::vector<std::byte>{});
  const std::vector<int64_t> ranks =
      world.all_gather_values(std::span<const int64_t>(std::vector<int64_t>{world.rank()}));
  for (int r = 0; r < world.size(); ++r) EXPECT_EQ(ranks[static_cast<size_t>(r)], r);
  const std::vector<std::string> names =
      world.all_gather_strings(std::string(static_cast<size_t>(world.rank()), 'n'));
  for (int r = 0; r < world.size(); ++r)
    EXPECT_EQ(names[static_cast<size_t>(r)], std::string(static_cast<size_t>(r), 'n'));
  EXPECT_TRUE(world.all_gather({}).empty());
}

TEST_P(CommunicatorTest, AllToAllOfUnevenParts) {
  const auto size_of_part = [](int from, int to) {
    return static_cast<size_t>((from * 5 + to * 3) % 4 * 70);
  };
  std::vector<std::vector<std::byte>> send;
  for (int to = 0; to < world.size(); ++to)
    send.push_back(bytes_of(world.rank(), to, size_of_part(world.rank(), to)));
  const auto received = world.all_to_all(send);
  ASSERT_EQ(static_cast<int>(received.size()), world.size());
  for (int from = 0; from < world.size(); ++from)
    EXPECT_EQ(received[static_cast<size_t>(from)],
              bytes_of(from, world.rank(), size_of_part(from, world.rank())));
}

TEST_P(CommunicatorTest, SplitsIntoGroups) {
  const Communicator half = world.split(world.rank() % 2, world.rank());
  EXPECT_EQ(half.rank(), world.rank() / 2);
  EXPECT_EQ(half.sum(int64_t{1}), half.size());
  Communicator moved = world.split(0, -world.rank());
  EXPECT_EQ(moved.rank(), world.size() - 1 - world.rank());
  moved = world.split(0, 0);
  EXPECT_EQ(moved.size(), world.size());
}

TEST_P(CommunicatorTest, SelfIsAlone) {
  const Communicator self = Communicator::self();
  EXPECT_EQ(self.size(), 1);
  EXPECT_EQ(self.sum(int64_t{5}), 5);
  EXPECT_EQ(self.exclusive_scan(5), 0);
  EXPECT_EQ(self.all_gather(bytes_of(0, 0, 9)), bytes_of(0, 0, 9));
  EXPECT_EQ(self.all_to_all({bytes_of(0, 0, 9)})[0], bytes_of(0, 0, 9));
}

INSTANTIATE_TEST_SUITE_P(MessageBytes, CommunicatorTest, testing::Values(int64_t{1} << 30, 64));

TEST(EvenRange, CoversAllWithSizesThatDifferByOne) {
  for (const int64_t n : {0, 1, 5, 16, 17}) {
    for (const int ranks : {1, 2, 3, 7}) {
      int64_t next = 0;
      for (int r = 0; r < ranks; ++r) {
        const Range range = even_range(n, r, ranks);
        EXPECT_EQ(range.begin, next);
        EXPECT_GE(range.size(), n / ranks);
        EXPECT_LE(range.size(), n / ranks + 1);
        next = range.end;
      }
      EXPECT_EQ(next, n);
    }
  }
}

}  // namespace
}  // namespace dino
