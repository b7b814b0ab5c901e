// SPDX-License-Identifier: Apache-2.0
#pragma once
// A GPU's memory and streams.

#include <functional>
#include <memory>

#include "tensor/cuda/runtime.hpp"
#include "tensor/tensor.hpp"

namespace dino::cuda {

class CudaMemory final : public Memory {
 public:
  explicit CudaMemory(int device) : device_{Device::Kind::cuda, static_cast<int8_t>(device)} {}
  [[nodiscard]] Device device() const override { return device_; }
  [[nodiscard]] void* allocate(size_t bytes) override;
  void release(void* data, size_t bytes) noexcept override;
  void zero(void* data, size_t bytes) override;

 private:
  Device device_;
};

/// How the host waits for a GPU: by the runtime's own blocking wait, or, while collectives among GPUs exist,
/// by theirs, which asks `finished` again and again and serves MPI and looks for errors in between. A rank
/// that sat in the runtime could keep another from reaching the collective that its own GPU waits for.
using HostWait = std::function<void(const std::function<bool()>& finished)>;
/// Null: the runtime's own.
void set_host_wait(HostWait wait);
void wait_on_host(EventHandle event);

/// A point in a stream's work. It stays one when the stream is gone.
class CudaEvent : public Event::State {
 public:
  /// Behind what the stream holds now.
  CudaEvent(int device, StreamHandle stream);
  ~CudaEvent() override;
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  [[nodiscard]] bool done() override;
  void wait() override;
  [[nodiscard]] EventHandle handle() const { return handle_; }

 private:
  int device_;
  EventHandle handle_;
};

/// The end of an operation that a stream may have to stand still for: a collective.
class AwaitedEvent : public CudaEvent {
 public:
  using CudaEvent::CudaEvent;
  [[nodiscard]] virtual const char* name() const = 0;
  [[nodiscard]] virtual int64_t bytes() const = 0;
  /// A stream with a clock stood still for it so long.
  virtual void stream_waited(double seconds) = 0;
};

class CudaClock;

class CudaStream final : public Stream {
 public:
  explicit CudaStream(CudaMemory& memory, Priority priority = Priority::normal);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  [[nodiscard]] Device device() const override { return memory_.device(); }
  [[nodiscard]] Event record() override;
  void wait(const Event& event) override;
  void synchronize() override;
  void copy_bytes(DeviceBytes to, DeviceBytes from, size_t bytes) override;
  void fill_elements(DeviceBytes to, std::span<const std::byte> element, size_t count) override;
  [[nodiscard]] StreamClock* clock() override;

  [[nodiscard]] StreamHandle handle() const { return handle_; }
  /// The calling thread's calls of the runtime go to this stream's GPU from now on.
  void make_current() const { use_device(memory_.device().index); }
  /// Device memory for the operator that asks, until the next one of this stream asks; 256-byte aligned. It
  /// grows in the first steps and stays.
  [[nodiscard]] void* scratch(size_t bytes);

 private:
  /// Pinned memory between the host's and the device's.
  class Staging;
  [[nodiscard]] void* checked(DeviceBytes bytes) const;
  [[nodiscard]] Staging& staging();
  void drain();
  CudaMemory& memory_;
  StreamHandle handle_;
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  std::unique_ptr<Staging> staging_;
  std::unique_ptr<CudaClock> clock_;
};

/// The stream as what it is, its GPU made current; InternalError where it is another device's.
[[nodiscard]] CudaStream& cuda_stream(Stream& stream);

/// A programmer's error unless a view of dtype `held` on `device` may be read as `wanted` by a kernel.
void check_access(DType held, DType wanted, Device device);

/// The typed address of a view on a GPU, for kernels; null of an empty view. InternalError when the dtype is
/// another or the bytes are not a GPU's.
template <class T>
[[nodiscard]] const T* pointer(ConstTensorView view) {
  if (!view) return nullptr;
  check_access(view.dtype, dino::detail::DTypeOf<T>::value, view.device);
  return static_cast<const T*>(view.data);
}
template <class T>
[[nodiscard]] T* pointer(TensorView view) {
  return const_cast<T*>(pointer<T>(ConstTensorView(view)));
}

}  // namespace dino::cuda
