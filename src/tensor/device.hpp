// SPDX-License-Identifier: Apache-2.0
#pragma once
// Devices, their memory and their queues of work.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/span.hpp"

namespace dino {

/// Where bytes live. cpu:0 is the host, whose memory any code may touch; the memory of every other device is
/// reached by operators, copies and collectives alone.
struct Device {
  enum class Kind : uint8_t { cpu, cuda } kind = Kind::cpu;
  int8_t index = 0;
  [[nodiscard]] bool is_host() const { return kind == Kind::cpu && index == 0; }
  bool operator==(const Device&) const = default;
};

/// Of what any memory allocates; whole cache lines.
inline constexpr int64_t kMemoryAlignment = 64;
[[nodiscard]] constexpr int64_t aligned_bytes(int64_t bytes) {
  return (bytes + kMemoryAlignment - 1) / kMemoryAlignment * kMemoryAlignment;
}

/// The memory of one device. It outlives what is made in it.
class Memory {
 public:
  virtual ~Memory() = default;
  [[nodiscard]] virtual Device device() const = 0;
  /// Aligned to kMemoryAlignment, contents undefined, pages untouched; nullptr when there is no more.
  [[nodiscard]] virtual void* allocate(size_t bytes) = 0;
  /// No queued work may still use it.
  virtual void release(void* data, size_t bytes) noexcept = 0;
  /// Done when the call returns; for memory that no stream uses yet.
  virtual void zero(void* data, size_t bytes) = 0;
  /// The host's.
  [[nodiscard]] static Memory& host();
};

/// A point in a stream's work, or an operation under way beside it (a collective). Empty: nothing to wait
/// for.
class Event {
 public:
  class State {
   public:
    virtual ~State() = default;
    [[nodiscard]] virtual bool done() = 0;
    /// Blocks the calling thread.
    virtual void wait() = 0;
  };
  Event() = default;
  explicit Event(std::shared_ptr<State> state) : state_(std::move(state)) {}
  [[nodiscard]] bool done() const { return !state_ || state_->done(); }
  void synchronize() const {
    if (state_) state_->wait();
  }
  [[nodiscard]] const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

/// Bytes of a device, for copies.
struct DeviceBytes {
  void* data = nullptr;
  Device device;
};

/// When a queue that runs beside the host came to points of its work. Nobody waits for the answers: they are
/// there when the stream was synchronised for another reason.
class StreamClock {
 public:
  virtual ~StreamClock() = default;
  /// A phase that begins behind what the stream holds. Phases lie within one another.
  virtual void begin(const char* name) = 0;
  /// Of the phase that began last. What fails here shows at the next call of the stream.
  virtual void end() noexcept = 0;
  /// Phases that had ended, and waits of the stream for collectives ("wait"), before its last synchronize(),
  /// in the order of their beginnings, in the host's time. Each is told once.
  [[nodiscard]] virtual std::vector<SpanListener::Told> take() = 0;
};

/// A phase of a stream's clock from construction to stop() or destruction; without a clock nothing.
class ClockSpan {
 public:
  ClockSpan(StreamClock* clock, const char* name) : clock_(clock) {
    if (clock_ != nullptr) clock_->begin(name);
  }
  ~ClockSpan() { stop(); }
  ClockSpan(const ClockSpan&) = delete;
  ClockSpan& operator=(const ClockSpan&) = delete;
  void stop() noexcept {
    if (clock_ != nullptr) clock_->end();
    clock_ = nullptr;
  }

 private:
  StreamClock* clock_;
};

/// A queue of work on one device: operators, copies and fills run in the order in which they are enqueued.
class Stream {
 public:
  virtual ~Stream() = default;
  [[nodiscard]] virtual Device device() const = 0;
  [[nodiscard]] virtual Event record() = 0;
  /// What is enqueued from now on begins after the event.
  virtual void wait(const Event& event) = 0;
  /// Blocks the calling thread until all that is enqueued is done.
  virtual void synchronize() = 0;
  /// One side is of this device, the other too or the host. The host's source may change as soon as the call
  /// returns; the host's target holds the bytes after synchronize().
  virtual void copy_bytes(DeviceBytes to, DeviceBytes from, size_t bytes) = 0;
  /// `count` times the element (1, 2, 4 or 8 bytes).
  virtual void fill_elements(DeviceBytes to, std::span<const std::byte> element, size_t count) = 0;
  /// Null: the host's clock is the stream's, since calls return when their work is done. Else it runs from
  /// the first call on.
  [[nodiscard]] virtual StreamClock* clock() { return nullptr; }

  /// Whether products of f32 matrices in this stream may round their operands to TF32, f32's range with 10
  /// bits behind the point, where the device multiplies that faster.
  [[nodiscard]] bool tf32_products() const { return tf32_products_; }
  void allow_tf32_products(bool allowed) { tf32_products_ = allowed; }

 private:
  bool tf32_products_ = false;
};

/// The host's: everything is done when the call returns.
class HostStream final : public Stream {
 public:
  [[nodiscard]] Device device() const override { return {}; }
  [[nodiscard]] Event record() override { return {}; }
  void wait(const Event& event) override { event.synchronize(); }
  void synchronize() override {}
  void copy_bytes(DeviceBytes to, DeviceBytes from, size_t bytes) override;
  void fill_elements(DeviceBytes to, std::span<const std::byte> element, size_t count) override;
};

}  // namespace dino
