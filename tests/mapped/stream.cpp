// SPDX-License-Identifier: Apache-2.0
#include "mapped/stream.hpp"

#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "base/error.hpp"

namespace dino::testing {

class MappedStream::Queue {
 public:
  void push(std::function<void()> work) { work_.push_back(std::move(work)); }
  [[nodiscard]] size_t end() const { return begun_ + work_.size(); }
  [[nodiscard]] bool reached(size_t mark) const { return begun_ >= mark; }
  void run_next() {
    const std::function<void()> work = std::move(work_.front());
    work_.pop_front();
    ++begun_;
    work();
  }
  void run_to(size_t mark) {
    while (!reached(mark)) run_next();
  }

 private:
  std::deque<std::function<void()>> work_;
  size_t begun_ = 0;
};

class MappedStream::Mark final : public Event::State {
 public:
  explicit Mark(std::shared_ptr<Queue> queue) : queue_(std::move(queue)), mark_(queue_->end()) {}
  /// A device goes on by itself, so that asking again and again comes to an end.
  [[nodiscard]] bool done() override {
    if (queue_->reached(mark_)) return true;
    queue_->run_next();
    return false;
  }
  void wait() override { queue_->run_to(mark_); }

 private:
  std::shared_ptr<Queue> queue_;
  size_t mark_;
};

MappedStream::MappedStream(const MappedMemory& memory, Execution execution)
    : memory_(memory), execution_(execution), queue_(std::make_shared<Queue>()) {}

void MappedStream::enqueue(std::function<void()> work) {
  if (execution_ == Execution::late)
    queue_->push(std::move(work));
  else
    work();
}

Event MappedStream::record() {
  return Event(std::make_shared<Mark>(queue_));
}

void MappedStream::wait(const Event& event) {
  enqueue([event] { event.synchronize(); });
}

void MappedStream::synchronize() {
  queue_->run_to(queue_->end());
}

void MappedStream::copy_bytes(DeviceBytes to, DeviceBytes from, size_t bytes) {
  const bool to_host = to.device.is_host(), from_host = from.device.is_host();
  DINO_CHECK(
      (to_host || to.device == device()) && (from_host || from.device == device()) && !(to_host && from_host),
      "a copy needs one side on the stream's device, the other there too or on the host");
  if (bytes == 0) return;
  if (!to_host) (void)memory_.open(to.data, bytes);
  if (from_host) {
    const auto* begin = static_cast<const std::byte*>(from.data);
    enqueue([this, to, bytes, kept = std::vector<std::byte>(begin, begin + bytes)] {
      std::memcpy(memory_.open(to.data, bytes), kept.data(), bytes);
    });
    return;
  }
  (void)memory_.open(from.data, bytes);
  enqueue([this, to, from, bytes, to_host] {
    std::memmove(to_host ? to.data : memory_.open(to.data, bytes), memory_.open(from.data, bytes), bytes);
  });
}

void MappedStream::fill_elements(DeviceBytes to, std::span<const std::byte> element, size_t count) {
  DINO_CHECK(to.device == device(), "a stream fills the memory of its device");
  if (count == 0) return;
  const size_t bytes = count * element.size();
  (void)memory_.open(to.data, bytes);
  enqueue([this, to, bytes, count, kept = std::vector<std::byte>(element.begin(), element.end())] {
    HostStream().fill_elements({memory_.open(to.data, bytes), {}}, kept, count);
  });
}

}  // namespace dino::testing
