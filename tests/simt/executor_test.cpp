// SPDX-License-Identifier: Apache-2.0
// The executor does what kernels ask for, and notices what they must not do.
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "simt/planted.hpp"

namespace dino::simt {
namespace {

using cuda::kAllLanes;

void run(cuda::Dim grid, cuda::Dim block, const std::function<void()>& kernel, size_t dynamic_bytes = 0) {
  run_kernel("planted", grid, block, dynamic_bytes, kernel);
}

std::string error_of(cuda::Dim grid, cuda::Dim block, const std::function<void()>& kernel) {
  return error_in([&] { run(grid, block, kernel); });
}

TEST(Executor, EveryThreadOfEveryBlockRunsOnce) {
  const cuda::Dim grid{3, 2, 2}, block{5, 4, 3};
  std::vector<int> runs(grid.volume() * block.volume());
  run(grid, block, [&] {
    EXPECT_EQ(gridDim.x, 3u);
    EXPECT_EQ(blockDim.z, 3u);
    const size_t b = blockIdx.x + 3 * (blockIdx.y + 2 * blockIdx.z);
    const size_t t = threadIdx.x + 5 * (threadIdx.y + 4 * threadIdx.z);
    ++runs[b * 60 + t];
  });
  for (const int count : runs) ASSERT_EQ(count, 1);
}

TEST(Executor, BarriersOrderTheThreadsOfABlock) {
  struct Ring {
    int at[96];
  };
  std::vector<int> seen(2 * 96);
  run({2}, {96}, [&] {
    int(&at)[96] = cuda::block_shared<Ring>().at;
    const int t = static_cast<int>(threadIdx.x);
    at[t] = t;
    for (int round = 0; round < 5; ++round) {
      __syncthreads();
      const int next = at[(t + 1) % 96];
      __syncthreads();
      at[t] = next;
    }
    seen[blockIdx.x * 96 + threadIdx.x] = at[t];
  });
  for (size_t i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i], static_cast<int>((i % 96 + 5) % 96));
}

TEST(Executor, BlockSums) {
  std::vector<double> sums(4 * 256);
  run({4}, {256}, [&] {
    const double x = static_cast<double>(cuda::global_thread());
    sums[static_cast<size_t>(cuda::global_thread())] = cuda::block_sum(x);
    EXPECT_EQ(cuda::block_max(static_cast<float>(x)), static_cast<float>(blockIdx.x * 256 + 255));
  });
  for (size_t i = 0; i < sums.size(); ++i)
    ASSERT_EQ(sums[i], 256.0 * static_cast<double>(i / 256 * 256) + 255 * 128);
}

TEST(Executor, ShufflesAndVotes) {
  run({1}, {64}, [] {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    EXPECT_EQ(__shfl_sync(kAllLanes, lane, 5), 5);
    EXPECT_EQ(__shfl_sync(kAllLanes, lane, 5, 8), lane / 8 * 8 + 5);
    EXPECT_EQ(__shfl_up_sync(kAllLanes, lane, 3), lane < 3 ? lane : lane - 3);
    EXPECT_EQ(__shfl_down_sync(kAllLanes, int64_t{lane} << 40, 3, 16) >> 40,
              lane % 16 < 13 ? lane + 3 : lane);
    EXPECT_EQ(__shfl_xor_sync(kAllLanes, static_cast<double>(lane), 9), lane ^ 9);
    EXPECT_EQ(__ballot_sync(kAllLanes, lane % 2 == 0), 0x55555555u);
    EXPECT_EQ(__any_sync(kAllLanes, lane == 31), 1);
    EXPECT_EQ(__all_sync(kAllLanes, lane == 31), 0);
    if (lane < 8) {
      EXPECT_EQ(__shfl_xor_sync(0xffu, lane, 4), lane ^ 4);
    } else {
      EXPECT_EQ(__ballot_sync(0xffffff00u, 1), 0xffffff00u);
    }
  });
}

TEST(Executor, DivergentBarriersAreErrors) {
  const auto one_leaves = [] {
    if (blockIdx.x == 1 && threadIdx.x == 7) return;
    __syncthreads();
  };
  EXPECT_TRUE(has(error_of({2}, {64}, one_leaves), {"kernel planted", "block (1, 0, 0)", "thread (0, 0, 0)",
                                                    "thread (7, 0, 0) has finished"}));
  const auto two_barriers = [] {
    if (threadIdx.x == 7)
      __syncthreads();
    else
      __syncthreads();
  };
  EXPECT_TRUE(has(error_of({1}, {64}, two_barriers),
                  {"thread (7, 0, 0)", "thread (0, 0, 0) waits at that of executor_test.cpp"}));
  EXPECT_EQ(error_of({2}, {64}, [] { __syncthreads(); }), "");  // as if nothing had been
}

TEST(Executor, LanesThatNeverComeAreErrors) {
  const auto one_stays_away = [] {
    if (threadIdx.x != 3) (void)__shfl_sync(kAllLanes, 1.0f, 0);
  };
  EXPECT_TRUE(has(error_of({1}, {32}, one_stays_away), {"a shuffle", "the lanes 0x8", "never come"}));
  const auto reads_another = [] {
    if (threadIdx.x < 16) (void)__shfl_sync(0xffffu, 1, 16);
  };
  EXPECT_TRUE(has(error_of({1}, {32}, reads_another), {"reads lane 16"}));
  EXPECT_TRUE(
      has(error_of({1}, {32}, [] { (void)__shfl_sync(0xffffu, 1, 0); }), {"thread (16", "not in the mask"}));
  EXPECT_TRUE(has(error_of({1}, {48}, [] { __syncwarp(); }), {"lanes that the block does not have"}));
  EXPECT_EQ(error_of({1}, {64}, [] { __syncwarp(); }), "");
}

}  // namespace
}  // namespace dino::simt
