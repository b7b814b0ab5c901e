// SPDX-License-Identifier: Apache-2.0
// Planted bugs of each kind are found; what they are made from is not found where it is right.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.hpp"
#include "mapped/faults.hpp"
#include "ops/cuda/launch.hpp"
#include "simt/device.hpp"
#include "simt/planted.hpp"

namespace dino::simt {
namespace {

using cuda::kAllLanes;

/// An array of the device, which kernels get.
struct OnDevice {
  explicit OnDevice(size_t n) : data(static_cast<int*>(cuda::allocate(n * sizeof(int)))) {
    cuda::zero(data, n * sizeof(int));
  }
  ~OnDevice() { cuda::release(data); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  int* data;
};

/// The error of the kernel of two arrays, run by `blocks` of 64 threads; empty: there is none.
std::string error_of(void (*kernel)(int*, int*), int* a, int* b, unsigned blocks = 1) {
  const cuda::StreamHandle stream = cuda::new_stream();
  const std::string error = error_in([&] {
    cuda::detail::launch("planted", kernel, {{blocks}, {64}, 0}, stream, std::tuple<int*, int*>(a, b),
                         std::index_sequence<0, 1>());
    cuda::synchronize(stream);
  });
  cuda::delete_stream(stream);
  return error;
}

struct Row {
  int at[64];
};

/// Without the calls of the compiler there is nothing that could notice.
class Watched : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kWatched) GTEST_SKIP() << "the address sanitizer watches this build";
  }
};

// ---- device memory

__global__ void copy_one_further(int* to, int* from) {
  to[threadIdx.x] = from[threadIdx.x + 1];
}
__global__ void write_one_further(int* to, int* from) {
  to[threadIdx.x + 1] = from[threadIdx.x];
}
__global__ void copy_one_before(int* to, int* from) {
  to[threadIdx.x] = from[static_cast<int>(threadIdx.x) - 1];
}

TEST_F(Watched, DeviceMemoryOutOfBounds) {
  OnDevice a(64), b(64), longer(65);
  EXPECT_TRUE(has(error_of(copy_one_further, a.data, b.data),
                  {"kernel planted", "thread (63, 0, 0)", "reads 4 bytes of device memory", "not allocated",
                   "checks_test.cpp:"}));
  EXPECT_TRUE(has(error_of(write_one_further, a.data, b.data),
                  {"thread (63, 0, 0)", "writes 4 bytes", "not allocated"}));
  EXPECT_TRUE(has(error_of(copy_one_before, a.data, b.data), {"thread (0, 0, 0)", "reads", "not allocated"}));
  EXPECT_EQ(error_of(copy_one_further, a.data, longer.data), "");
  EXPECT_EQ(error_of(write_one_further, longer.data, b.data), "");
}

__global__ void keep_address(int* kept, int* address) {
  if (threadIdx.x == 0) *reinterpret_cast<int**>(kept) = address;
}
__global__ void write_kept(int*, int* kept) {
  if (threadIdx.x == 0) **reinterpret_cast<int**>(kept) = 1;
}

TEST_F(Watched, DeviceMemoryAfterItsRelease) {
  OnDevice kept(64);
  {
    OnDevice gone(64);
    EXPECT_EQ(error_of(keep_address, kept.data, gone.data), "");
    EXPECT_EQ(error_of(write_kept, nullptr, kept.data), "");
  }
  EXPECT_TRUE(
      has(error_of(write_kept, nullptr, kept.data), {"writes 4 bytes of device memory", "not allocated"}));
}

TEST(Launch, ArgumentsAreLiveDeviceMemory) {
  OnDevice a(64);
  std::vector<int> host(64);
  EXPECT_TRUE(has(error_of(write_kept, a.data, host.data()),
                  {"kernel planted, argument 1", "not an address of the device"}));
  int* released = nullptr;
  {
    OnDevice gone(64);
    released = gone.data;
  }
  EXPECT_TRUE(has(error_of(write_kept, released, a.data), {"argument 0", "memory that was released"}));
}

TEST(Launch, TheHostCannotTouchDeviceMemory) {
  OnDevice a(64);
  EXPECT_TRUE(testing::faults(a.data));
  EXPECT_TRUE(testing::faults(a.data + 63));
}

__global__ void all_write_one(int* to, int*) {
  to[threadIdx.x] = static_cast<int>(blockIdx.x);
}
__global__ void write_own_read_all(int* to, int*) {
  to[blockIdx.x * 64 + threadIdx.x] = 1;
  to[blockIdx.x * 64 + threadIdx.x] += to[threadIdx.x];
}
__global__ void read_then_overwrite(int* to, int* from) {
  const int x = from[threadIdx.x];
  if (blockIdx.x == 1) from[threadIdx.x] = x + 1;
  to[blockIdx.x * 64 + threadIdx.x] = x;
}
__global__ void exchange_in_block(int* to, int* from) {
  to[threadIdx.x] = from[threadIdx.x];
  __syncthreads();
  from[threadIdx.x] = to[63 - threadIdx.x];
}
__global__ void exchange_without_barrier(int* to, int* from) {
  to[threadIdx.x] = from[threadIdx.x];
  from[threadIdx.x] = to[63 - threadIdx.x];
}
__global__ void count_atomically(int* to, int*) {
  atomicAdd(to, 1);
}

TEST_F(Watched, RacesOnDeviceMemory) {
  OnDevice a(256), b(256);
  EXPECT_TRUE(has(error_of(all_write_one, a.data, b.data, 2),
                  {"block (1, 0, 0)", "writes 4 bytes", "written", "by another block"}));
  EXPECT_TRUE(has(error_of(write_own_read_all, a.data, b.data, 2),
                  {"block (1, 0, 0)", "reads 4 bytes", "written", "by another block"}));
  EXPECT_TRUE(has(error_of(read_then_overwrite, a.data, b.data, 3),
                  {"block (1, 0, 0)", "writes 4 bytes", "read", "by another block"}));
  EXPECT_TRUE(has(error_of(exchange_without_barrier, a.data, b.data),
                  {"4 bytes of device memory", "nothing in between", "by thread"}));
  EXPECT_EQ(error_of(all_write_one, a.data, b.data, 1), "");
  EXPECT_EQ(error_of(exchange_in_block, a.data, b.data), "");
  EXPECT_EQ(error_of(count_atomically, a.data, b.data, 4), "");
}

// ---- shared memory

__global__ void reverse(int* to, int* from) {
  Row& row = cuda::block_shared<Row>();
  row.at[threadIdx.x] = from[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = row.at[63 - threadIdx.x];
  __syncthreads();
  row.at[63 - threadIdx.x] = 0;
}
__global__ void reverse_without_first(int* to, int* from) {
  Row& row = cuda::block_shared<Row>();
  row.at[threadIdx.x] = from[threadIdx.x];
  to[threadIdx.x] = row.at[threadIdx.x < 32 ? threadIdx.x : 63 - threadIdx.x];
}
__global__ void reverse_without_second(int* to, int* from) {
  Row& row = cuda::block_shared<Row>();
  row.at[threadIdx.x] = from[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = row.at[63 - threadIdx.x];
  row.at[threadIdx.x] = 0;
}
__global__ void overwrite_what_all_read(int* to, int*) {
  Row& row = cuda::block_shared<Row>();
  row.at[threadIdx.x] = 1;
  __syncthreads();
  to[threadIdx.x] = row.at[5];
  if (threadIdx.x == 5) row.at[5] = 2;
}
__global__ void all_write_shared(int*, int*) {
  cuda::block_shared<Row>().at[threadIdx.x / 64] = 1;
}

TEST_F(Watched, RacesBetweenBarriers) {
  OnDevice a(64), b(64);
  EXPECT_EQ(error_of(reverse, a.data, b.data, 1), "");
  EXPECT_TRUE(has(error_of(reverse_without_first, a.data, b.data),
                  {"reads 4 bytes of shared memory", "written", "by thread (31, 0, 0)"}));
  EXPECT_TRUE(has(error_of(reverse_without_second, a.data, b.data),
                  {"4 bytes of shared memory", "nothing in between", "by thread"}));
  EXPECT_TRUE(has(error_of(overwrite_what_all_read, a.data, b.data),
                  {"thread (5, 0, 0)", "writes 4 bytes of shared memory", "read", "by other threads"}));
  EXPECT_TRUE(has(error_of(all_write_shared, a.data, b.data),
                  {"thread (1, 0, 0)", "writes", "written", "by thread (0, 0, 0)"}));
}

__global__ void swap_in_warp(int* to, int* from) {
  Row& row = cuda::block_shared<Row>();
  const unsigned other = threadIdx.x ^ 1;
  for (int i = 0; i < 3; ++i) {
    row.at[threadIdx.x] = from[threadIdx.x];
    __syncwarp();
    to[threadIdx.x] = row.at[other];
    __syncwarp();
  }
}
__global__ void swap_without_syncwarp(int* to, int* from) {
  Row& row = cuda::block_shared<Row>();
  row.at[threadIdx.x] = from[threadIdx.x];
  (void)__shfl_sync(kAllLanes, 1, 0);  // orders nothing
  to[threadIdx.x] = row.at[threadIdx.x ^ 1];
}
__global__ void overwrite_without_syncwarp(int* to, int* from) {
  Row& row = cuda::block_shared<Row>();
  row.at[threadIdx.x] = from[threadIdx.x];
  __syncwarp();
  to[threadIdx.x] = row.at[threadIdx.x ^ 1];
  row.at[threadIdx.x] = 1;
}
__global__ void overwrite_what_a_warp_reads(int* to, int* from) {
  Row& row = cuda::block_shared<Row>();
  row.at[threadIdx.x] = from[threadIdx.x];
  __syncwarp();
  to[threadIdx.x] = row.at[threadIdx.x / 32 * 32 + 5];
  if (from != to) __syncwarp();
  if (threadIdx.x % 32 == 5) row.at[threadIdx.x] = 1;
}
__global__ void swap_in_halves(int* to, int* from) {
  Row& row = cuda::block_shared<Row>();
  const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u;
  row.at[threadIdx.x] = from[threadIdx.x];
  __syncwarp(mask);
  to[threadIdx.x] = row.at[threadIdx.x ^ 1];
}
__global__ void swap_across_halves(int* to, int* from) {
  Row& row = cuda::block_shared<Row>();
  row.at[threadIdx.x] = 0;
  __syncwarp();
  const unsigned mask = threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u;
  row.at[threadIdx.x] = from[threadIdx.x];
  __syncwarp(mask);
  to[threadIdx.x] = row.at[threadIdx.x ^ 16];
}

TEST_F(Watched, RacesWithinAWarp) {
  OnDevice a(64), b(64);
  EXPECT_EQ(error_of(swap_in_warp, a.data, b.data), "");
  EXPECT_EQ(error_of(swap_in_halves, a.data, b.data), "");
  EXPECT_EQ(error_of(overwrite_what_a_warp_reads, a.data, b.data), "");
  EXPECT_TRUE(has(error_of(overwrite_what_a_warp_reads, a.data, a.data),
                  {"thread (5, 0, 0)", "writes 4 bytes of shared memory", "read", "by thread (0, 0, 0)"}));
  EXPECT_TRUE(has(error_of(swap_without_syncwarp, a.data, b.data),
                  {"reads 4 bytes of shared memory", "written", "by thread"}));
  EXPECT_TRUE(has(error_of(overwrite_without_syncwarp, a.data, b.data),
                  {"4 bytes of shared memory", "nothing in between", "by thread"}));
  EXPECT_TRUE(has(error_of(swap_across_halves, a.data, b.data),
                  {"reads 4 bytes of shared memory", "written", "by thread"}));
}

__global__ void read_unwritten(int* to, int*) {
  Row& row = cuda::block_shared<Row>();
  if (blockIdx.x == 0) row.at[threadIdx.x] = 1;
  to[blockIdx.x * 64 + threadIdx.x] = row.at[threadIdx.x];
}
__global__ void read_outside(int* to, int*) {
  Row& row = cuda::block_shared<Row>();
  row.at[threadIdx.x] = 1;
  to[threadIdx.x] = (&row.at[0])[threadIdx.x + 64];
}

TEST_F(Watched, SharedMemoryHoldsNothingAtFirst) {
  OnDevice a(128);
  EXPECT_EQ(error_of(read_unwritten, a.data, nullptr, 1), "");
  EXPECT_TRUE(has(error_of(read_unwritten, a.data, nullptr, 2),
                  {"block (1, 0, 0)", "thread (0, 0, 0)", "that nobody has written"}));
  EXPECT_TRUE(
      has(error_of(read_outside, a.data, nullptr), {"reads 4 bytes of shared memory", "not allocated"}));
}

/// What the address sanitizer reports in its builds.
class Sanitized : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kWatched) GTEST_SKIP() << "this build has no address sanitizer";
  }
};

TEST_F(Sanitized, KernelsOutsideOfWhatIsAllocated) {
  OnDevice a(64), b(60), kept(64);
  EXPECT_DEATH((void)error_of(copy_one_further, a.data, b.data), "AddressSanitizer: use-after-poison");
  EXPECT_DEATH((void)error_of(write_one_further, b.data, a.data), "AddressSanitizer: use-after-poison");
  EXPECT_DEATH((void)error_of(read_outside, a.data, nullptr), "AddressSanitizer: use-after-poison");
  {
    OnDevice gone(64);
    EXPECT_EQ(error_of(keep_address, kept.data, gone.data), "");
    EXPECT_EQ(error_of(write_kept, nullptr, kept.data), "");
  }
  EXPECT_DEATH((void)error_of(write_kept, nullptr, kept.data), "");
  EXPECT_EQ(error_of(reverse, a.data, kept.data), "");
}

struct alignas(16) Line {
  int at[256];
};

template <bool kWait, bool kBarrier>
__global__ void copy_by_lines(int* to, int* from) {
  Line& line = cuda::block_shared<Line>();
  cuda::copy_16_async(&line.at[4 * threadIdx.x], from + 4 * threadIdx.x, threadIdx.x < 63);
  cuda::copy_commit();
  if (kWait) cuda::copy_wait<0>();
  if (kBarrier) __syncthreads();
  to[threadIdx.x] = line.at[252 - 4 * threadIdx.x];
}

TEST_F(Watched, AsynchronousCopiesAreWaitedFor) {
  OnDevice a(64), b(256);
  EXPECT_EQ(error_of(copy_by_lines<true, true>, a.data, b.data), "");
  EXPECT_TRUE(has(error_of(copy_by_lines<false, true>, a.data, b.data),
                  {"reads 4 bytes of shared memory", "asynchronous copy", "begun by thread (0, 0, 0)"}));
  EXPECT_NE(error_of(copy_by_lines<true, false>, a.data, b.data), "");
  OnDevice shorter(128);
  EXPECT_TRUE(has(error_of(copy_by_lines<true, true>, a.data, shorter.data),
                  {"thread (32, 0, 0)", "reads 16 bytes of device memory", "not allocated"}));
}

}  // namespace
}  // namespace dino::simt
