// SPDX-License-Identifier: Apache-2.0
// What stands in for tensor/cuda/runtime.cpp: one GPU whose streams are queues.
#include "tensor/cuda/runtime.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/error.hpp"
#include "base/random.hpp"
#include "simt/device.hpp"
#include "simt/executor.hpp"

namespace dino::simt {
namespace {

constexpr size_t kMemoryBytes = size_t{16} << 30;  // of addresses; pages that nobody touches cost nothing

class Queue {
 public:
  /// `run`, or nothing until another queue has reached a mark.
  struct Work {
    std::function<void()> run;
    std::shared_ptr<Queue> after;
    size_t mark = 0;
    double seconds = 0;
    double not_before = 0;  ///< by the GPU's clock: the host enqueued it then
    [[nodiscard]] bool waits() const { return after && !after->reached(mark); }
  };
  void push(Work work) { work_.push_back(std::move(work)); }
  [[nodiscard]] size_t end() const { return passed_.size() + work_.size(); }
  [[nodiscard]] bool reached(size_t mark) const { return passed_.size() >= mark; }
  /// When it was reached.
  [[nodiscard]] double time_of(size_t mark) const { return mark == 0 ? 0 : passed_[mark - 1]; }
  [[nodiscard]] bool can_run() const { return !work_.empty() && !work_.front().waits(); }
  [[nodiscard]] const Work& next() const { return work_.front(); }
  void run_next() {
    const Work& work = work_.front();
    if (work.run) work.run();
    const double free = passed_.empty() ? 0 : passed_.back();
    const double ready = work.after ? work.after->time_of(work.mark) : 0;
    passed_.push_back(std::max({free, ready, work.not_before}) + work.seconds);
    work_.pop_front();
  }
  void drop() {
    passed_.resize(end());
    work_.clear();
  }

 private:
  std::deque<Work> work_;
  std::vector<double> passed_;  ///< when each of its works had run
};

class Streams {
 public:
  [[nodiscard]] static Streams& instance() {
    static auto* const streams = new Streams;  // streams of static objects end after static objects
    return *streams;
  }
  std::recursive_mutex mutex;

  void set_order(uint64_t seed) {
    seed_ = seed;
    random_ = Random(seed, RandomStream::test, 0);
  }
  /// By the GPU's clock, as far as the host knows of it.
  double host_time = 0;
  Pace pace;
  void push(Queue& queue, Queue::Work work) const {
    work.not_before = host_time;
    queue.push(std::move(work));
  }
  void host_saw(const Queue& queue, size_t mark) { host_time = std::max(host_time, queue.time_of(mark)); }
  void add(std::shared_ptr<Queue> queue) { queues_.push_back(std::move(queue)); }
  void remove(const std::shared_ptr<Queue>& queue) { std::erase(queues_, queue); }
  void run_to(Queue& queue, size_t mark) {
    while (!queue.reached(mark)) {
      drift();
      if (!queue.reached(mark)) step(queue);
    }
    host_saw(queue, mark);
  }
  /// The next work that the queue needs.
  void step(Queue& queue) {
    Queue* needed = &queue;
    while (needed->next().waits()) needed = needed->next().after.get();
    try {
      needed->run_next();
    } catch (...) {
      // A GPU that has failed does nothing more.
      for (const auto& each : queues_) each->drop();
      throw;
    }
  }
  /// Some streams go on by themselves.
  void drift() {
    if (seed_ == 0) return;
    while (random_.below(2) == 0) {
      Queue& queue = *queues_[random_.below(queues_.size())];
      if (queue.can_run()) step(queue);
    }
  }

 private:
  Streams() {
    const char* seed = std::getenv("DINO_SIMT_SEED");
    set_order(seed == nullptr ? 0 : std::strtoull(seed, nullptr, 10));
  }
  std::vector<std::shared_ptr<Queue>> queues_;
  uint64_t seed_ = 0;
  Random random_{0, RandomStream::test, 0};
};

/// Pinned memory by its first byte.
class Pinned {
 public:
  [[nodiscard]] static Pinned& instance() {
    static auto* const pinned = new Pinned;
    return *pinned;
  }
  void add(const void* data, size_t bytes) { blocks_[static_cast<const std::byte*>(data)] = bytes; }
  void remove(const void* data) {
    DINO_CHECK(blocks_.erase(static_cast<const std::byte*>(data)) == 1,
               "pinned memory that is released twice, or never was");
  }
  [[nodiscard]] bool holds(const void* data, size_t bytes) const {
    const auto* begin = static_cast<const std::byte*>(data);
    auto block = blocks_.upper_bound(begin);
    if (block == blocks_.begin()) return false;
    --block;
    return begin + bytes <= block->first + block->second;
  }

 private:
  std::map<const std::byte*, size_t> blocks_;
};

std::map<const void*, size_t>& allocations() {
  static auto* const all = new std::map<const void*, size_t>;
  return *all;
}

using Lock = std::lock_guard<std::recursive_mutex>;

}  // namespace
}  // namespace dino::simt

namespace dino::cuda {

struct StreamTag {
  std::shared_ptr<simt::Queue> queue = std::make_shared<simt::Queue>();
};
struct EventTag {
  bool timed = false;
  std::shared_ptr<simt::Queue> queue;
  size_t mark = 0;
  double recorded = 0;  ///< by the GPU's clock, as far as the host knew of it
  [[nodiscard]] double passed() const { return std::max(recorded, queue->time_of(mark)); }
};

}  // namespace dino::cuda

namespace dino::simt {

testing::MappedMemory& device_memory() {
  static auto* const memory = [] {
    auto* const made = new testing::MappedMemory(kMemoryBytes, Device{Device::Kind::cuda, 0});
    watch_device(made->opened().data(), made->opened().size());
    return made;
  }();
  return *memory;
}

void set_order(uint64_t seed) {
  const Lock lock(Streams::instance().mutex);
  Streams::instance().set_order(seed);
}

void set_pace(const Pace& wanted) {
  Streams::instance().pace = wanted;
}
const Pace& pace() {
  return Streams::instance().pace;
}

void enqueue(cuda::StreamHandle stream, std::function<void()> work, double seconds) {
  const Lock lock(Streams::instance().mutex);
  Streams::instance().push(*stream->queue, {std::move(work), nullptr, 0, seconds, 0});
  Streams::instance().drift();
}

void run_all(cuda::StreamHandle stream) {
  const Lock lock(Streams::instance().mutex);
  Streams::instance().run_to(*stream->queue, stream->queue->end());
}

}  // namespace dino::simt

namespace dino::cuda {

using simt::device_memory;
using simt::Lock;
using simt::Pinned;
using simt::Queue;
using simt::Streams;

int device_count(std::string*) {
  return 1;
}
DeviceFacts facts(int device) {
  use_device(device);
  DeviceFacts facts;
  facts.name = "SIMT executor on the CPU";
  facts.major = 8;
  facts.multiprocessors = 4;
  facts.memory_bytes = static_cast<int64_t>(simt::kMemoryBytes);
  facts.shared_bytes = static_cast<int64_t>(simt::kSharedBytes);
  facts.versions = "no driver";
  facts.identity = fmt::format("process {}", getpid());
  return facts;
}
void use_device(int device) {
  DINO_CHECK(device == 0, "a GPU that is not there");
}

int64_t used_bytes() {
  const Lock lock(Streams::instance().mutex);
  int64_t used = 0;
  for (const auto& [data, bytes] : simt::allocations()) used += static_cast<int64_t>(bytes);
  return used;
}
void* allocate(size_t bytes) {
  const Lock lock(Streams::instance().mutex);
  void* const data = device_memory().allocate(bytes);
  if (data == nullptr) return nullptr;
  simt::allocations()[data] = bytes;
  simt::watch_allocated(device_memory().open(data, bytes), bytes);
  return data;
}
void release(void* data) noexcept {
  const Lock lock(Streams::instance().mutex);
  const auto found = simt::allocations().find(data);
  DINO_CHECK(found != simt::allocations().end(), "released twice, or never allocated");
  simt::watch_released(device_memory().open(data, found->second), found->second);
  device_memory().release(data, found->second);
  simt::allocations().erase(found);
}

void* allocate_pinned(size_t bytes) {
  const Lock lock(Streams::instance().mutex);
  void* const data = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (data != nullptr) Pinned::instance().add(data, bytes);
  return data;
}
void release_pinned(void* data) noexcept {
  const Lock lock(Streams::instance().mutex);
  Pinned::instance().remove(data);
  std::free(data);
}

// The order in which streams run is any, so that priorities change nothing.
StreamHandle new_stream(Priority) {
  const Lock lock(Streams::instance().mutex);
  auto stream = std::make_unique<StreamTag>();
  Streams::instance().add(stream->queue);
  return stream.release();
}
void delete_stream(StreamHandle stream) noexcept {
  const Lock lock(Streams::instance().mutex);
  // Its work goes on; what fails now has nobody to be told.
  simt::run_all(stream);
  Streams::instance().remove(stream->queue);
  delete stream;
}
void synchronize(StreamHandle stream) {
  simt::run_all(stream);
}

EventHandle new_event(bool timed) {
  return new EventTag{timed, nullptr, 0, 0};
}
void delete_event(EventHandle event) noexcept {
  delete event;
}
void record(EventHandle event, StreamHandle stream) {
  const Lock lock(Streams::instance().mutex);
  event->queue = stream->queue;
  event->mark = stream->queue->end();
  event->recorded = Streams::instance().host_time;
}
bool finished(EventHandle event) {
  const Lock lock(Streams::instance().mutex);
  if (!event->queue) return true;
  if (event->queue->reached(event->mark)) {
    Streams::instance().host_saw(*event->queue, event->mark);
    return true;
  }
  // A GPU goes on by itself, so that asking again and again comes to an end.
  Streams::instance().step(*event->queue);
  return false;
}
void synchronize(EventHandle event) {
  const Lock lock(Streams::instance().mutex);
  if (event->queue) Streams::instance().run_to(*event->queue, event->mark);
}
double seconds_between(EventHandle begin, EventHandle end) {
  const Lock lock(Streams::instance().mutex);
  for (const EventHandle event : {begin, end}) {
    DINO_CHECK(event->timed, "the time of an event that is not timed");
    DINO_CHECK(event->queue && event->queue->reached(event->mark), "the time of an event to come");
  }
  return end->passed() - begin->passed();
}
void wait(StreamHandle stream, EventHandle event) {
  const Lock lock(Streams::instance().mutex);
  if (event->queue) Streams::instance().push(*stream->queue, {nullptr, event->queue, event->mark, 0, 0});
}

namespace {

double seconds_of(size_t bytes) {
  return simt::pace().copy + simt::pace().byte * static_cast<double>(bytes);
}

}  // namespace

void copy(StreamHandle stream, void* to, const void* from, size_t bytes, CopyKind kind) {
  const Lock lock(Streams::instance().mutex);
  const double seconds = seconds_of(bytes);
  if (kind == CopyKind::to_device) {
    (void)device_memory().open(to, bytes);
    if (Pinned::instance().holds(from, bytes)) {
      simt::enqueue(
          stream, [=] { std::memcpy(device_memory().open(to, bytes), from, bytes); }, seconds);
      return;
    }
    const auto* begin = static_cast<const std::byte*>(from);
    simt::enqueue(
        stream,
        [to, bytes, kept = std::vector<std::byte>(begin, begin + bytes)] {
          std::memcpy(device_memory().open(to, bytes), kept.data(), bytes);
        },
        seconds);
    return;
  }
  (void)device_memory().open(from, bytes);
  if (kind == CopyKind::on_device) (void)device_memory().open(to, bytes);
  simt::enqueue(
      stream,
      [=] {
        void* const target = kind == CopyKind::on_device ? device_memory().open(to, bytes) : to;
        std::memmove(target, device_memory().open(from, bytes), bytes);
      },
      seconds);
  if (kind == CopyKind::to_host && !Pinned::instance().holds(to, bytes)) synchronize(stream);
}

void fill(StreamHandle stream, void* to, const void* element, size_t width, size_t count) {
  (void)device_memory().open(to, width * count);
  const auto* begin = static_cast<const std::byte*>(element);
  simt::enqueue(
      stream,
      [to, count, kept = std::vector<std::byte>(begin, begin + width)] {
        HostStream().fill_elements({device_memory().open(to, kept.size() * count), {}}, kept, count);
      },
      seconds_of(width * count));
}

void zero(void* to, size_t bytes) {
  const Lock lock(Streams::instance().mutex);
  device_memory().zero(to, bytes);
}

namespace {

/// A call that waits: the values of its arguments.
struct KeptCall {
  explicit KeptCall(const KernelCall& call)
      : name(call.name),
        kernel(call.kernel),
        invoke(call.invoke),
        pointers(call.pointers, call.pointers + call.count) {
    for (size_t i = 0; i < call.count; ++i) {
      const auto* begin = static_cast<const std::byte*>(call.arguments[i]);
      values.emplace_back(begin, begin + call.sizes[i]);
    }
  }
  /// The values, addresses opened.
  [[nodiscard]] std::vector<std::vector<std::byte>> opened() const {
    std::vector<std::vector<std::byte>> open = values;
    for (size_t i = 0; i < open.size(); ++i) {
      if (!pointers[i]) continue;
      void* address = nullptr;
      std::memcpy(&address, open[i].data(), sizeof(address));
      if (address == nullptr) continue;
      try {
        address = device_memory().open(address, 0);
      } catch (const InternalError& error) {
        throw InternalError(fmt::format("kernel {}, argument {}: {}", name, i, error.what()));
      }
      std::memcpy(open[i].data(), &address, sizeof(address));
    }
    return open;
  }

  std::string name;
  const void* kernel;
  void (*invoke)(const void* kernel, void** arguments);
  std::vector<bool> pointers;
  std::vector<std::vector<std::byte>> values;
};

}  // namespace

void launch_kernel(const KernelCall& call, const LaunchShape& shape, StreamHandle stream) {
  auto kept = std::make_shared<KeptCall>(call);
  (void)kept->opened();
  const auto threads = static_cast<double>(shape.grid.volume() * shape.block.volume());
  simt::enqueue(
      stream,
      [kept, shape] {
        std::vector<std::vector<std::byte>> values = kept->opened();
        std::vector<void*> arguments;
        for (auto& value : values) arguments.push_back(value.data());
        const std::function<void()> thread = [&] { kept->invoke(kept->kernel, arguments.data()); };
        simt::run_kernel(kept->name.c_str(), shape.grid, shape.block, shape.shared_bytes, thread);
      },
      simt::pace().launch + simt::pace().thread * threads);
}

}  // namespace dino::cuda
