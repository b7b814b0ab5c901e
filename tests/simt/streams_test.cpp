// SPDX-License-Identifier: Apache-2.0
// Streams run as late as events and synchronisation allow, and in any order that they allow: what is not
// waited for is seen to be missing.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "ops/cuda/launch.hpp"
#include "simt/device.hpp"
#include "simt/planted.hpp"

namespace dino::simt {
namespace {

constexpr int kCount = 64;

__global__ void set_to(int* to, int value) {
  to[threadIdx.x] = value;
}
__global__ void copy_from(int* to, const int* from) {
  to[threadIdx.x] = from[threadIdx.x];
}

class StreamsTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
    set_order(GetParam());
    for (int*& array : arrays_) {
      array = static_cast<int*>(cuda::allocate(kCount * sizeof(int)));
      cuda::zero(array, kCount * sizeof(int));
    }
    for (cuda::StreamHandle& stream : streams_) stream = cuda::new_stream();
  }
  void TearDown() override {
    for (const cuda::StreamHandle stream : streams_) cuda::delete_stream(stream);
    for (int* const array : arrays_) cuda::release(array);
    set_order(0);
  }
  void set(int* to, int value, cuda::StreamHandle stream) {
    cuda::detail::launch("set_to", set_to, {{1}, {kCount}, 0}, stream, std::tuple<int*, int>(to, value),
                         std::index_sequence<0, 1>());
  }
  void copy(int* to, const int* from, cuda::StreamHandle stream) {
    cuda::detail::launch("copy_from", copy_from, {{1}, {kCount}, 0}, stream,
                         std::tuple<int*, const int*>(to, from), std::index_sequence<0, 1>());
  }
  /// Of an array, now.
  int first(const int* array) {
    int value = -1;
    cuda::copy(last_, &value, array, sizeof(int), cuda::CopyKind::to_host);
    return value;
  }
  int* a() { return arrays_[0]; }
  int* b() { return arrays_[1]; }

  std::array<int*, 2> arrays_{};
  std::array<cuda::StreamHandle, 3> streams_{};
  cuda::StreamHandle& one_ = streams_[0];
  cuda::StreamHandle& two_ = streams_[1];
  cuda::StreamHandle& last_ = streams_[2];
};

/// What `consume` saw in each of many orders.
template <class Run>
std::vector<int> outcomes(const Run& run) {
  std::vector<int> seen;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    set_order(seed);
    seen.push_back(run());
  }
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  return seen;
}

TEST_P(StreamsTest, AStreamKeepsItsOrder) {
  for (int i = 1; i < 20; ++i) {
    set(a(), i, one_);
    copy(b(), a(), one_);
  }
  cuda::synchronize(one_);
  EXPECT_EQ(first(b()), 19);
}

TEST_P(StreamsTest, AnEventOrdersTwoStreams) {
  const cuda::EventHandle event = cuda::new_event();
  EXPECT_TRUE(cuda::finished(event));
  for (int i = 1; i < 10; ++i) {
    set(a(), i, one_);
    cuda::record(event, one_);
    cuda::wait(two_, event);
    copy(b(), a(), two_);
    cuda::record(event, two_);
    cuda::wait(one_, event);
  }
  int polls = 0;
  while (!cuda::finished(event)) ++polls;
  EXPECT_EQ(first(b()), 9);
  EXPECT_LE(polls, 60);
  cuda::delete_event(event);
}

TEST_P(StreamsTest, WorkIsOnLiveMemoryWhenItRuns) {
  int* const gone = static_cast<int*>(cuda::allocate(kCount * sizeof(int)));
  const std::string error = error_in([&] {
    for (int i = 0; i < 40; ++i) set(gone, 1, one_);
    cuda::release(gone);
    cuda::synchronize(one_);
  });
  EXPECT_TRUE(has(error, {"kernel set_to, argument 0", "memory that was released"}));
}

INSTANTIATE_TEST_SUITE_P(Orders, StreamsTest, ::testing::Values(0, 1, 2));

class MissingWait : public StreamsTest {};

TEST_P(MissingWait, BetweenStreamsIsSeen) {
  const auto without = [&] {
    cuda::zero(a(), kCount * sizeof(int));
    set(a(), 1, one_);
    copy(b(), a(), two_);
    cuda::synchronize(two_);
    cuda::synchronize(one_);
    return first(b());
  };
  EXPECT_EQ(outcomes(without), (std::vector<int>{0, 1}));
  set_order(0);
  EXPECT_EQ(without(), 0);
}

TEST_P(MissingWait, BeforeOverwritingIsSeen) {
  const auto without = [&] {
    cuda::zero(a(), kCount * sizeof(int));
    copy(b(), a(), one_);
    set(a(), 1, two_);
    cuda::synchronize(two_);
    cuda::synchronize(one_);
    return first(b());
  };
  EXPECT_EQ(outcomes(without), (std::vector<int>{0, 1}));
  set_order(0);
  EXPECT_EQ(without(), 1);
}

TEST_P(MissingWait, OfTheHostIsSeen) {
  auto* const pinned = static_cast<int*>(cuda::allocate_pinned(sizeof(int)));
  const auto read_early = [&] {
    *pinned = 0;
    set(a(), 1, one_);
    cuda::copy(one_, pinned, a(), sizeof(int), cuda::CopyKind::to_host);
    const int value = *pinned;
    cuda::synchronize(one_);
    EXPECT_EQ(*pinned, 1);
    return value;
  };
  EXPECT_EQ(outcomes(read_early), (std::vector<int>{0, 1}));
  // The source of a copy is read when its turn comes, if it is pinned.
  const auto overwrite_early = [&] {
    *pinned = 1;
    cuda::copy(one_, a(), pinned, sizeof(int), cuda::CopyKind::to_device);
    *pinned = 2;
    cuda::synchronize(one_);
    return first(a());
  };
  EXPECT_EQ(outcomes(overwrite_early), (std::vector<int>{1, 2}));
  cuda::release_pinned(pinned);
  int pageable = 1;
  cuda::copy(one_, a(), &pageable, sizeof(int), cuda::CopyKind::to_device);
  pageable = 2;
  cuda::synchronize(one_);
  EXPECT_EQ(first(a()), 1);
}

INSTANTIATE_TEST_SUITE_P(Orders, MissingWait, ::testing::Values(0));

}  // namespace
}  // namespace dino::simt
