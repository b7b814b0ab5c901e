// SPDX-License-Identifier: Apache-2.0
#pragma once
// The few calls of the CUDA runtime that this project makes. runtime.cpp carries them out on a GPU; the
// executor in tests/simt carries out the same calls on the CPU. A failed call throws InternalError with the
// runtime's words, except where nullptr says that there is no memory.

#include <cstddef>
#include <cstdint>
#include <string>

#include "tensor/device.hpp"

namespace dino::cuda {

using StreamHandle = struct StreamTag*;
using EventHandle = struct EventTag*;

/// Of GPUs that this process may use; 0 without a driver or a GPU, and then `why` says so.
[[nodiscard]] int device_count(std::string* why = nullptr);

struct DeviceFacts {
  std::string name;
  int major = 0, minor = 0;  ///< compute capability
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  int64_t shared_bytes = 0;  ///< that a block may have
  std::string versions;      ///< of driver and runtime
  std::string identity;      ///< that no other GPU of any machine has; empty: unknown
};
[[nodiscard]] DeviceFacts facts(int device);
/// For the calling thread, from now on.
void use_device(int device);

/// Of the current GPU's memory, by all processes, contexts and libraries with it.
[[nodiscard]] int64_t used_bytes();
[[nodiscard]] void* allocate(size_t bytes);
void release(void* data) noexcept;
/// Host memory that copies of a stream read and write without a detour.
[[nodiscard]] void* allocate_pinned(size_t bytes);
void release_pinned(void* data) noexcept;

/// Of two kernels that could begin, that of the higher stream does; none is stopped for another.
enum class Priority : uint8_t { normal, high };
[[nodiscard]] StreamHandle new_stream(Priority priority = Priority::normal);
void delete_stream(StreamHandle stream) noexcept;
void synchronize(StreamHandle stream);

/// A timed one knows when it was passed.
[[nodiscard]] EventHandle new_event(bool timed = false);
void delete_event(EventHandle event) noexcept;
void record(EventHandle event, StreamHandle stream);
[[nodiscard]] bool finished(EventHandle event);
void synchronize(EventHandle event);
/// Of a GPU's clock, from one timed event to a later one; both have been passed.
[[nodiscard]] double seconds_between(EventHandle begin, EventHandle end);
/// What is enqueued on the stream from now on begins after the event.
void wait(StreamHandle stream, EventHandle event);

enum class CopyKind : uint8_t { to_device, to_host, on_device };
/// Host memory is pinned, or the call is as slow as a synchronous one.
void copy(StreamHandle stream, void* to, const void* from, size_t bytes, CopyKind kind);
/// `count` elements of `width` (1, 2, 4, 8) bytes.
void fill(StreamHandle stream, void* to, const void* element, size_t width, size_t count);
/// Done when the call returns.
void zero(void* to, size_t bytes);

struct Dim {
  unsigned x = 1, y = 1, z = 1;
  [[nodiscard]] constexpr size_t volume() const { return size_t{x} * y * z; }
};
struct LaunchShape {
  Dim grid, block;
  size_t shared_bytes = 0;  ///< dynamic
};
/// One kernel with its arguments, see launch.hpp.
struct KernelCall {
  const char* name;
  const void* kernel;
  void** arguments;      ///< one address each
  const size_t* sizes;   ///< bytes of each
  const bool* pointers;  ///< which of them are addresses of the device
  size_t count;
  /// Calls the kernel as a function, for one thread of the executor; null on a GPU.
  void (*invoke)(const void* kernel, void** arguments);
};
void launch_kernel(const KernelCall& call, const LaunchShape& shape, StreamHandle stream);

}  // namespace dino::cuda
