// SPDX-License-Identifier: Apache-2.0
// runtime.hpp on a GPU.
#include "tensor/cuda/runtime.hpp"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstring>
#include <mutex>
#include <unordered_map>

#include "base/error.hpp"

namespace dino::cuda {
namespace {

/// Kernels use mma on bf16 and cp.async.
constexpr int kOldestMajor = 8;
/// More dynamic shared memory than this has to be asked for, kernel by kernel.
constexpr size_t kPlainSharedBytes = size_t{48} << 10;

[[noreturn]] void fail(cudaError_t code, const std::string& what) {
  throw InternalError(fmt::format("GPU: {}: {} ({}); if it comes again, look at dmesg and nvidia-smi", what,
                                  cudaGetErrorString(code), cudaGetErrorName(code)));
}

void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  // Else the next call that asks for the last error finds this one.
  static_cast<void>(cudaGetLastError());
  fail(code, what);
}

cudaStream_t native(StreamHandle stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}
cudaEvent_t native(EventHandle event) {
  return reinterpret_cast<cudaEvent_t>(event);
}

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// The driver's function, without linking the driver: programs start where there is none.
template <class Function>
Function driver_function(const char* name) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  check(cudaGetDriverEntryPointByVersion(name, &address, 12000, cudaEnableDefault, &found), name);
#else
  check(cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found), name);
#endif
  if (found != cudaDriverEntryPointSuccess || address == nullptr)
    throw InternalError(fmt::format("GPU: the driver has no {}; update it", name));
  return reinterpret_cast<Function>(address);
}

void check_driver(CUresult code, const char* what) {
  if (code != CUDA_SUCCESS)
    throw InternalError(fmt::format("GPU: {}: the driver says {}", what, static_cast<int>(code)));
}

/// Why no GPU can be used; empty: `count` can.
std::string reason(int& count) {
  count = 0;
  int driver = 0, runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  if (driver == 0) return "no NVIDIA driver";
  const cudaError_t code = cudaGetDeviceCount(&count);
  static_cast<void>(cudaGetLastError());
  if (code == cudaErrorInsufficientDriver) {
    count = 0;
    return fmt::format("the NVIDIA driver is for CUDA {}, this build needs {}", version_text(driver),
                       version_text(runtime));
  }
  if (code == cudaErrorNoDevice || (code == cudaSuccess && count == 0)) {
    count = 0;
    const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return visible == nullptr ? "no NVIDIA GPU"
                              : fmt::format("no NVIDIA GPU among CUDA_VISIBLE_DEVICES={}", visible);
  }
  if (code != cudaSuccess) {
    count = 0;
    return fmt::format("the NVIDIA driver does not start: {}", cudaGetErrorString(code));
  }
  for (int i = 0; i < count; ++i) {
    const DeviceFacts f = facts(i);
    if (f.major >= kOldestMajor) continue;
    count = 0;
    return fmt::format(
        "GPU {} ({}) has compute capability {}.{}, and 8.0 is the oldest that is supported; leave it out of "
        "CUDA_VISIBLE_DEVICES",
        i, f.name, f.major, f.minor);
  }
  return "";
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "the facts of a GPU");
  return value;
}

/// Asks for a kernel's dynamic shared memory where it is more than any kernel has. What was asked for is kept
/// per GPU, since each has its own copy of a kernel.
void allow_shared(const KernelCall& call, size_t bytes) {
  static std::mutex mutex;
  static std::unordered_map<const void*, size_t> allowed[32];
  int device = 0;
  check(cudaGetDevice(&device), "which GPU");
  const std::lock_guard lock(mutex);
  size_t& largest = allowed[device % 32][call.kernel];
  if (bytes <= largest) return;
  const cudaError_t code =
      cudaFuncSetAttribute(call.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (code != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    fail(code, fmt::format("{} bytes of shared memory for {}", bytes, call.name));
  }
  largest = bytes;
}

}  // namespace

int device_count(std::string* why) {
  static int count = 0;
  static const std::string text = reason(count);
  if (why != nullptr) *why = text;
  return count;
}

DeviceFacts facts(int device) {
  DeviceFacts f;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "the facts of a GPU");
  f.name = properties.name;
  f.major = properties.major;
  f.minor = properties.minor;
  f.multiprocessors = properties.multiProcessorCount;
  f.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  f.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  for (const char byte : properties.uuid.bytes)
    f.identity += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  int driver = 0, runtime = 0;
  check(cudaDriverGetVersion(&driver), "the driver's version");
  check(cudaRuntimeGetVersion(&runtime), "the runtime's version");
  f.versions = fmt::format("driver for CUDA {}, runtime {}", version_text(driver), version_text(runtime));
  return f;
}

void use_device(int device) {
  // cudaSetDevice costs more than this look, and every operator comes here.
  thread_local int current = -1;
  if (device == current) return;
  check(cudaSetDevice(device), "the choice of a GPU");
  current = device;
}

int64_t used_bytes() {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "how much of its memory is used");
  return static_cast<int64_t>(total - free);
}

void* allocate(size_t bytes) {
  void* data = nullptr;
  const cudaError_t code = cudaMalloc(&data, bytes);
  if (code == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  check(code, "allocating its memory");
  return data;
}

void release(void* data) noexcept {
  static_cast<void>(cudaFree(data));
}

void* allocate_pinned(size_t bytes) {
  void* data = nullptr;
  const cudaError_t code = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
  if (code == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  check(code, "pinning the host's memory");
  return data;
}

void release_pinned(void* data) noexcept {
  static_cast<void>(cudaFreeHost(data));
}

StreamHandle new_stream(Priority priority) {
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "priorities of streams");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                     priority == Priority::high ? highest : lowest),
        "a new stream");
  return reinterpret_cast<StreamHandle>(stream);
}

void delete_stream(StreamHandle stream) noexcept {
  static_cast<void>(cudaStreamDestroy(native(stream)));
}

void synchronize(StreamHandle stream) {
  check(cudaStreamSynchronize(native(stream)), "what is enqueued");
}

EventHandle new_event(bool timed) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming), "a new event");
  return reinterpret_cast<EventHandle>(event);
}

void delete_event(EventHandle event) noexcept {
  static_cast<void>(cudaEventDestroy(native(event)));
}

void record(EventHandle event, StreamHandle stream) {
  check(cudaEventRecord(native(event), native(stream)), "an event");
}

bool finished(EventHandle event) {
  const cudaError_t code = cudaEventQuery(native(event));
  if (code == cudaErrorNotReady) return false;
  check(code, "what is enqueued");
  return true;
}

void synchronize(EventHandle event) {
  check(cudaEventSynchronize(native(event)), "what is enqueued");
}

double seconds_between(EventHandle begin, EventHandle end) {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, native(begin), native(end)), "the time between events");
  return 1e-3 * static_cast<double>(milliseconds);
}

void wait(StreamHandle stream, EventHandle event) {
  check(cudaStreamWaitEvent(native(stream), native(event), 0), "waiting for an event");
}

void copy(StreamHandle stream, void* to, const void* from, size_t bytes, CopyKind kind) {
  const cudaMemcpyKind native_kind = kind == CopyKind::to_device ? cudaMemcpyHostToDevice
                                     : kind == CopyKind::to_host ? cudaMemcpyDeviceToHost
                                                                 : cudaMemcpyDeviceToDevice;
  check(cudaMemcpyAsync(to, from, bytes, native_kind, native(stream)), "a copy");
}

void fill(StreamHandle stream, void* to, const void* element, size_t width, size_t count) {
  if (width == 1) {
    check(cudaMemsetAsync(to, *static_cast<const unsigned char*>(element), count, native(stream)), "a fill");
    return;
  }
  // The runtime sets bytes only; wider elements are the driver's.
  const auto address = reinterpret_cast<CUdeviceptr>(to);
  const auto driver_stream = reinterpret_cast<CUstream>(stream);
  if (width == 2) {
    static const auto set =
        driver_function<CUresult (*)(CUdeviceptr, unsigned short, size_t, CUstream)>("cuMemsetD16Async");
    unsigned short value = 0;
    std::memcpy(&value, element, width);
    check_driver(set(address, value, count, driver_stream), "a fill");
    return;
  }
  static const auto set =
      driver_function<CUresult (*)(CUdeviceptr, unsigned, size_t, CUstream)>("cuMemsetD32Async");
  unsigned words[2] = {};
  std::memcpy(words, element, width);
  if (width == 4 || words[0] == words[1]) {
    check_driver(set(address, words[0], count * (width / 4), driver_stream), "a fill");
    return;
  }
  // The low words, then the high ones: a column each of a matrix of `count` rows.
  static const auto set_column =
      driver_function<CUresult (*)(CUdeviceptr, size_t, unsigned, size_t, size_t, CUstream)>(
          "cuMemsetD2D32Async");
  check_driver(set_column(address, width, words[0], 1, count, driver_stream), "a fill");
  check_driver(set_column(address + 4, width, words[1], 1, count, driver_stream), "a fill");
}

void zero(void* to, size_t bytes) {
  check(cudaMemsetAsync(to, 0, bytes, cudaStreamPerThread), "zeros");
  check(cudaStreamSynchronize(cudaStreamPerThread), "zeros");
}

void launch_kernel(const KernelCall& call, const LaunchShape& shape, StreamHandle stream) {
  if (shape.shared_bytes > kPlainSharedBytes) allow_shared(call, shape.shared_bytes);
  const cudaError_t code = cudaLaunchKernel(call.kernel, dim3(shape.grid.x, shape.grid.y, shape.grid.z),
                                            dim3(shape.block.x, shape.block.y, shape.block.z), call.arguments,
                                            shape.shared_bytes, native(stream));
  if (code == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  fail(code, fmt::format("kernel {} on [{}, {}, {}] blocks of [{}, {}, {}] threads with {} bytes", call.name,
                         shape.grid.x, shape.grid.y, shape.grid.z, shape.block.x, shape.block.y,
                         shape.block.z, shape.shared_bytes));
}

}  // namespace dino::cuda
