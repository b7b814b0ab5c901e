// SPDX-License-Identifier: Apache-2.0
#include "comm/collective.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>
#include <vector>

#include "base/timing.hpp"
#include "comm/absent_ranks.hpp"

namespace dino {
namespace {

/// Message limits that leave operations whole, and that cut them into many.
class CollectiveTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { set_message_bytes(GetParam()); }
  void TearDown() override { set_message_bytes(int64_t{1} << 30); }
  Communicator world = Communicator::world();
  HostStream stream;
  std::unique_ptr<Collective> collective = make_mpi_collective(world);
};

Tensor values_of(int rank, int64_t n) {
  Tensor values(Shape{n});
  for (int64_t i = 0; i < n; ++i)
    values.as<float>()[i] = static_cast<float>(std::sin(static_cast<double>(i * 7 + rank * 13 + 1)));
  return values;
}

std::vector<float> summed(int ranks, int64_t n) {
  std::vector<double> sums(static_cast<size_t>(n));
  for (int r = 0; r < ranks; ++r) {
    const Tensor values = values_of(r, n);
    for (int64_t i = 0; i < n; ++i)
      sums[static_cast<size_t>(i)] += static_cast<double>(values.as<float>()[i]);
  }
  return {sums.begin(), sums.end()};
}

const std::vector<int64_t> kSizes = {0, 1, 5, 1000, 40003};

TEST_P(CollectiveTest, SumsAreInRankOrder) {
  for (const int64_t n : kSizes) {
    if (n > 1000 && GetParam() < 1000) continue;
    Tensor values = values_of(world.rank(), n);
    stream.wait(collective->all_reduce(stream, values));
    const std::vector<float> expected = summed(world.size(), n);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(values.as<float>()[i], expected[static_cast<size_t>(i)]) << n;
  }
}

TEST_P(CollectiveTest, ScatteredSumsAreThePartsOfTheSums) {
  for (const int64_t part : {0, 1, 48, 9001}) {
    if (part > 1000 && GetParam() < 1000) continue;
    const int64_t n = part * world.size();
    Tensor values = values_of(world.rank(), n);
    stream.wait(collective->reduce_scatter(stream, values));
    const std::vector<float> expected = summed(world.size(), n);
    for (int64_t i = part * world.rank(); i < part * (world.rank() + 1); ++i)
      ASSERT_EQ(values.as<float>()[i], expected[static_cast<size_t>(i)]) << n;
  }
}

template <class T>
void expect_sums_of_16_bits(Collective& collective, Stream& stream, int64_t part) {
  const int ranks = collective.size();
  const int64_t n = part * ranks;
  Tensor all(Shape{n}, detail::DTypeOf<T>::value), scattered(Shape{n}, detail::DTypeOf<T>::value);
  std::vector<double> sums(static_cast<size_t>(n));
  for (int r = 0; r < ranks; ++r) {
    const Tensor values = values_of(r, n);
    for (int64_t i = 0; i < n; ++i) {
      const T rounded(values.f32()[static_cast<size_t>(i)]);
      sums[static_cast<size_t>(i)] += static_cast<double>(static_cast<float>(rounded));
      if (r == collective.rank()) all.as<T>()[i] = scattered.as<T>()[i] = rounded;
    }
  }
  stream.wait(collective.all_reduce(stream, all));
  stream.wait(collective.reduce_scatter(stream, scattered));
  for (int64_t i = 0; i < n; ++i) {
    const T expected(static_cast<float>(sums[static_cast<size_t>(i)]));
    ASSERT_EQ(all.as<T>()[i].bits, expected.bits) << i << " of " << n;
    if (i / part != collective.rank()) continue;
    ASSERT_EQ(scattered.as<T>()[i].bits, expected.bits) << i << " of " << n;
  }
}

TEST_P(CollectiveTest, SumsOf16BitsAreOfTheRoundedValues) {
  for (const int64_t part : {1, 48, 9001}) {
    if (part > 1000 && GetParam() < 1000) continue;
    expect_sums_of_16_bits<bf16>(*collective, stream, part);
    expect_sums_of_16_bits<f16>(*collective, stream, part);
  }
  Tensor half(Shape{3}, DType::f16);
  EXPECT_THROW((void)collective->all_reduce(stream, half, ReduceOp::max), InternalError);
}

TEST_P(CollectiveTest, GroupsHaveCollectivesOfTheirOwn) {
  const int colour = world.rank() % 2;
  const std::unique_ptr<Collective> group = collective->split([](int rank) { return rank % 2; });
  ASSERT_EQ(group->size(), (world.size() + 1 - colour) / 2);
  EXPECT_EQ(group->rank(), world.rank() / 2);
  Tensor sum(Shape{1});
  sum.as<float>()[0] = static_cast<float>(world.rank());
  Tensor all(Shape{world.size()});
  all.as<float>()[world.rank()] = static_cast<float>(world.rank());
  // Both are under way at once.
  const Event everywhere = collective->all_gather(stream, all);
  stream.wait(group->all_reduce(stream, sum));
  stream.wait(everywhere);
  float expected = 0;
  for (int r = colour; r < world.size(); r += 2) expected += static_cast<float>(r);
  EXPECT_EQ(sum.as<float>()[0], expected);
  for (int r = 0; r < world.size(); ++r) EXPECT_EQ(all.as<float>()[r], static_cast<float>(r));
}

TEST_P(CollectiveTest, SeveralAreUnderWayAtOnce) {
  std::vector<Tensor> sums;
  std::vector<Event> events;
  for (const int64_t n : kSizes) {
    sums.push_back(values_of(world.rank(), n));
    events.push_back(collective->all_reduce(stream, sums.back()));
  }
  Tensor largest = values_of(world.rank(), 300);
  events.push_back(collective->all_reduce(stream, largest, ReduceOp::max));
  // Blocking calls of the communicator may lie between the polls, at other places on other ranks.
  for (int i = 0; i < 3 * world.rank(); ++i) collective->poll();
  EXPECT_EQ(world.sum(int64_t{1}), world.size());
  // The last first: the others are done by then.
  for (size_t i = events.size(); i-- > 0;) stream.wait(events[i]);
  for (size_t s = 0; s < kSizes.size(); ++s) {
    EXPECT_TRUE(events[s].done());
    const std::vector<float> expected = summed(world.size(), kSizes[s]);
    for (int64_t i = 0; i < kSizes[s]; ++i)
      ASSERT_EQ(sums[s].as<float>()[i], expected[static_cast<size_t>(i)]);
  }
  for (int64_t i = 0; i < 300; ++i) {
    float expected = -2;
    for (int r = 0; r < world.size(); ++r) expected = std::max(expected, values_of(r, 300).as<float>()[i]);
    EXPECT_EQ(largest.as<float>()[i], expected);
  }
}

TEST_P(CollectiveTest, DoublesAndLeast) {
  const int ranks = world.size();
  Tensor values(Shape{3}, DType::f64);
  for (int64_t i = 0; i < 3; ++i) values.as<double>()[i] = world.rank() + static_cast<double>(i) * 0.25;
  Tensor least = values.clone();
  stream.wait(collective->all_reduce(stream, values));
  stream.wait(collective->all_reduce(stream, least, ReduceOp::min));
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(values.as<double>()[i], ranks * (ranks - 1) / 2.0 + ranks * static_cast<double>(i) * 0.25);
    EXPECT_EQ(least.as<double>()[i], static_cast<double>(i) * 0.25);
  }
}

TEST_P(CollectiveTest, GathersPartsInPlace) {
  for (const int64_t part : {int64_t{0}, int64_t{1}, int64_t{5}, int64_t{333}}) {
    Tensor all(Shape{world.size(), part}, DType::i64);
    for (int64_t i = 0; i < part; ++i) all.as<int64_t>()[world.rank() * part + i] = world.rank() * 1000 + i;
    stream.wait(collective->all_gather(stream, all));
    for (int r = 0; r < world.size(); ++r)
      for (int64_t i = 0; i < part; ++i) ASSERT_EQ(all.as<int64_t>()[r * part + i], r * 1000 + i);
  }
}

TEST_P(CollectiveTest, CountsWhatItDoes) {
  const bool alone = world.size() == 1;
  const std::unique_ptr<Collective> part = collective->split([](int) { return 0; });
  const CollectiveUse before = part->use();
  Tensor values(Shape{world.size() * int64_t{8}});
  stream.wait(part->all_reduce(stream, values));
  stream.wait(part->all_gather(stream, values));
  stream.wait(collective->reduce_scatter(stream, values));
  const CollectiveUse& use = collective->use();
  const int64_t bytes = alone ? 0 : values.bytes();
  for (const auto& [now, then] :
       {std::pair{use.all_reduce, before.all_reduce}, std::pair{use.all_gather, before.all_gather},
        std::pair{use.reduce_scatter, before.reduce_scatter}}) {
    const OperationUse since = now.since(then);
    EXPECT_EQ(since.count, alone ? 0 : 1);
    EXPECT_EQ(since.bytes, bytes);
    EXPECT_GE(since.wait_seconds, 0);
  }
  const OperationUse control = control_use();
  EXPECT_EQ(world.sum(int64_t{1}), world.size());
  EXPECT_EQ(control_use().since(control).count, alone ? 0 : 1);
  EXPECT_EQ(control_use().since(control).bytes, alone ? 0 : 8);
}

INSTANTIATE_TEST_SUITE_P(MessageBytes, CollectiveTest, testing::Values(int64_t{1} << 30, 64));

/// Ranks that stand for absent ones have the values of theirs, and wait for each other as those would.
TEST(AbsentRanks, WaitForTheSlowestOfThoseThatAreHere) {
  constexpr int kAbsent = 5;
  constexpr int64_t kPart = 40;
  const Communicator world = Communicator::world();
  HostStream stream;
  int64_t received = 0;
  const auto collective = make_absent_ranks(kAbsent, world, received);
  const auto group = collective->split([](int) { return 0; });
  Tensor values(Shape{kAbsent * kPart});
  for (int64_t i = 0; i < kPart; ++i) values.as<float>()[i] = static_cast<float>(i);
  const auto late = std::chrono::milliseconds(200);
  world.barrier();
  const Stopwatch watch;
  if (world.rank() + 1 == world.size()) std::this_thread::sleep_for(late);
  const Event gathered = group->all_gather(stream, values);
  group->poll();
  stream.wait(gathered);
  EXPECT_GE(watch.seconds(), 0.19) << "also on a rank that came in time";
  for (int64_t i = 0; i < values.numel(); ++i)
    ASSERT_EQ(values.as<float>()[i], static_cast<float>(i % kPart));
  stream.wait(collective->all_reduce(stream, values));
  for (int64_t i = 0; i < values.numel(); ++i)
    ASSERT_EQ(values.as<float>()[i], static_cast<float>(kAbsent * (i % kPart)));
  EXPECT_EQ(received, (kAbsent - 1) * kPart * 4) << "of the groups alone";
}

}  // namespace
}  // namespace dino
