// SPDX-License-Identifier: Apache-2.0
#pragma once
// Runs kernels on the CPU: the blocks of a launch one after the other, the threads of a block as fibers. A
// thread runs until it has to wait for others, in a barrier or an operation of its warp; then another one of
// its block does. So a kernel without barriers is a loop over its threads.
// These are the functions that language.hpp and instructions.hpp are written in; kernels see only those.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

#include "tensor/cuda/runtime.hpp"

namespace dino::simt {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
/// Of the thread that runs.
struct Places {
  Index thread, block, block_size, grid_size;
};
extern Places places;

/// What a GPU of compute capability 8.0 lets one block have.
inline constexpr size_t kSharedBytes = size_t{163} << 10;
inline constexpr size_t kStaticSharedBytes = size_t{48} << 10;
/// Where it lies, with gaps between what the kernel names.
inline constexpr size_t kSharedRoom = size_t{256} << 10;

// ---- called by kernels

/// Waits for all threads of the block; the sum of what they bring.
unsigned barrier(unsigned value, const std::source_location& at);
void warp_barrier(unsigned mask, const std::source_location& at);
enum class Shuffle : uint8_t { from, exchange, up, down };
uint64_t shuffle(unsigned mask, uint64_t value, Shuffle how, int lane, int width,
                 const std::source_location& at);
unsigned ballot(unsigned mask, bool predicate, const std::source_location& at);

/// What a lane brings to a product of tensor cores.
struct Fragments {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};
void multiply_bf16(const Fragments& fragments, const std::source_location& at);
void multiply_f16(const Fragments& fragments, const std::source_location& at);
/// And to a load of four matrices.
struct MatrixRow {
  uint32_t* words;
  const void* row;
};
void load_matrices(const MatrixRow& row, bool transposed, const std::source_location& at);

/// Arrives when its thread waits for it, as late as the instruction may. Zeros where `from` is null.
void copy_async(void* to, const void* from, size_t bytes, const std::source_location& at);
void copy_commit();
void copy_wait(int latest);

/// An atomic operation is about to touch the bytes.
void touch_atomically(const void* at, size_t bytes, const std::source_location& location);

/// One variable in shared memory: where it is in the launch that runs.
struct SharedPlace {
  size_t bytes, alignment;
  uint64_t launch = 0;  ///< that it was last seen in
  void* data = nullptr;
};
void* shared_place(SharedPlace& place);
void* dynamic_shared_memory();

// ---- called by the host

/// The memory of the device, as kernels see it, and what of it may be touched.
void watch_device(const void* begin, size_t bytes);
void watch_allocated(const void* data, size_t bytes);
void watch_released(const void* data, size_t bytes);

/// Runs the kernel to its end. InternalError names kernel, block and thread of what went wrong.
void run_kernel(const char* name, cuda::Dim grid, cuda::Dim block, size_t dynamic_bytes,
                const std::function<void()>& thread);

}  // namespace dino::simt
