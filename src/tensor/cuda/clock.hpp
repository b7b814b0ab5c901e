// SPDX-License-Identifier: Apache-2.0
#pragma once
// When a GPU's stream came to points of its work, by pairs of timed events.

#include <deque>
#include <memory>
#include <vector>

#include "tensor/cuda/device.hpp"

namespace dino::cuda {

class CudaClock final : public StreamClock {
 public:
  /// Of a stream that outlives it.
  explicit CudaClock(const CudaStream& stream);
  ~CudaClock() override;
  CudaClock(const CudaClock&) = delete;
  CudaClock& operator=(const CudaClock&) = delete;
  void begin(const char* name) override;
  void end() noexcept override;
  [[nodiscard]] std::vector<SpanListener::Told> take() override;

  /// The stream is about to wait for the event; end() when it does.
  void begin_wait(std::shared_ptr<AwaitedEvent> event);
  /// The host is about to wait until the stream is empty, and has waited.
  void begin_synchronize();
  void synchronized();

 private:
  struct Entry {
    const char *category, *name;
    EventHandle begin, end;
    std::shared_ptr<AwaitedEvent> awaited;  ///< of a wait
    enum class State : uint8_t { open, ended, lost } state;
    int64_t ended_before;  ///< how many synchronisations had been then
  };
  [[nodiscard]] EventHandle take_event();
  void open(Entry entry);
  [[nodiscard]] SpanClock::time_point time_of(EventHandle event) const;

  const CudaStream& stream_;
  std::vector<EventHandle> free_;
  std::deque<Entry> entries_;   ///< those that are not taken, by their beginnings
  EventHandle anchor_;          ///< passed last before a synchronisation ended
  SpanClock::time_point at_{};  ///< which was then
  int64_t synchronised_ = 0;
};

}  // namespace dino::cuda
