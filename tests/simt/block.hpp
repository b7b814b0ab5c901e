// SPDX-License-Identifier: Apache-2.0
#pragma once
// The block that runs, inside of the executor.

#include <array>
#include <boost/context/detail/fcontext.hpp>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "simt/executor.hpp"
#include "simt/watch.hpp"

namespace dino::simt {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kLargestBlock = 1024;

/// "file.cu:12".
[[nodiscard]] std::string text_of(const std::source_location& at);

/// A stack on which one thread after the other runs, as long as none of them waits.
class Fiber {
 public:
  /// The host's.
  Fiber() = default;
  explicit Fiber(size_t number);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  /// The next jump to it enters the function, which does not return; whatever it was doing is forgotten.
  void start(void (*function)(boost::context::detail::transfer_t));

  boost::context::detail::fcontext_t context = nullptr;  ///< where it goes on
  const void* bottom = nullptr;
  size_t bytes = 0;
  void* fake_stack = nullptr;  ///< the address sanitizer's

 private:
  std::byte* mapped_ = nullptr;
  size_t colour_ = 0;  ///< keeps the tops of all stacks out of one set of the cache
};

struct PendingCopy {
  std::byte* to;
  const std::byte* from;  ///< null: zeros
  size_t bytes;
  std::source_location at;
};

struct Thread {
  enum class State : uint8_t { fresh, running, ready, at_barrier, at_warp, finished } state = State::fresh;
  unsigned number = 0;
  Index index;
  Fiber* fiber = nullptr;  ///< while it waits
  std::source_location at;
  const char* waits_in = "";
  uint64_t result = 0;                              ///< of a shuffle or vote
  std::vector<std::vector<PendingCopy>> committed;  ///< groups of asynchronous copies, the oldest first
  std::vector<PendingCopy> uncommitted;
};

/// An operation that some lanes of a warp meet in.
struct Meeting {
  using Function = void (*)(Meeting&);
  Function function = nullptr;
  const char* name = "";
  unsigned mask = 0, arrived = 0;
  std::source_location at;
  Thread* lanes = nullptr;  ///< of the whole warp
  std::array<const void*, kWarp> brought{};
};

class Executor {
 public:
  /// The one of this process; one launch at a time.
  [[nodiscard]] static Executor& instance() {
    if (instance_ == nullptr) instance_ = new Executor;  // lives as long as any stream
    return *instance_;
  }
  void run(const char* name, cuda::Dim grid, cuda::Dim block, size_t dynamic_bytes,
           const std::function<void()>& thread);

  [[nodiscard]] Thread& current() { return *current_; }
  unsigned barrier(unsigned value, const std::source_location& at);
  /// Calls the function once for all lanes of the mask; `brought` is what this one brings.
  void meet(unsigned mask, Meeting::Function function, const char* name, const void* brought,
            const std::source_location& at);
  void* shared_place(SharedPlace& place);
  void* dynamic_shared_memory() { return shared_; }

  /// What the thread did before is ordered before what the lanes of the mask do from now on, and the other
  /// way round.
  void order_lanes(const Meeting& meeting);
  /// An access of the current thread, before it happens; `code` is where the compiler's call returns to.
  static void watch(const void* at, size_t bytes, Access access, const void* code);
  /// One that the executor carries out for a thread.
  void check(const Thread& thread, const void* data, size_t bytes, Access access,
             const std::source_location& at);
  void check_atomic(const void* data, size_t bytes, const std::source_location& at);
  void begin_copy(const PendingCopy& copy);
  void end_copy(const PendingCopy& copy);
  void watch_device(const void* begin, size_t bytes);
  void watch_allocated(const void* data, size_t bytes);
  void watch_released(const void* data, size_t bytes);

  /// Ends the launch with an error that names the kernel, the block and the thread.
  [[noreturn]] void fail(const std::string& what) { fail(*current_, what); }
  [[noreturn]] void fail(const Thread& thread, const std::string& what);

 private:
  struct Warp {
    std::vector<Meeting> meetings;
    // See Moment.
    uint32_t stamp = 1, all = 1;
    std::array<std::array<uint32_t, kWarp>, kWarp> lanes{};
  };

  inline static Executor* instance_ = nullptr;
  Executor();
  static void arrived(boost::context::detail::transfer_t from, void* fake_stack);
  static void enter(boost::context::detail::transfer_t from);
  void begin_block(size_t number);
  void run_threads();
  void jump(Fiber& to);
  /// The current thread waits; others run until it is made ready.
  void wait(Thread::State state, const char* what, const std::source_location& at);
  /// The next fiber to run when the current one has nothing to do.
  Fiber& next_fiber();
  Fiber& idle_fiber();
  void make_ready(Thread& thread);
  [[noreturn]] void report_stuck();
  [[nodiscard]] std::string place_of(const Thread& thread) const;
  /// Of a launch, and of each of its blocks: shared memory holds nothing.
  void begin_shared(size_t dynamic_bytes);
  void empty_shared();
  /// Asynchronous copies that nobody waited for.
  void forget_copies(Thread& thread);
  void open_shared(size_t offset, size_t bytes);
  [[nodiscard]] Moment moment_of(const Thread& thread) const {
    const Warp& warp = warps_[thread.number / kWarp];
    return {epoch_, warp.stamp, warp.all, warp.lanes[thread.number % kWarp].data(),
            static_cast<uint16_t>(thread.number)};
  }
  [[nodiscard]] bool is_shared(const void* data) const {
    return static_cast<size_t>(static_cast<const std::byte*>(data) - shared_) < kSharedRoom;
  }
  [[nodiscard]] bool is_device(const void* data) const {
    return static_cast<size_t>(static_cast<const std::byte*>(data) - device_) < device_bytes_;
  }
  /// What is wrong with the access; `other` receives words for whom it collides with.
  [[nodiscard]] Fault fault_of(const Thread& thread, const void* data, size_t bytes, Access access,
                               std::string& other);
  [[noreturn]] void fail_access(const Thread& thread, const void* data, size_t bytes, Access access,
                                Fault fault, const std::string& other, const std::string& where);

  const char* kernel_ = "";
  cuda::Dim grid_, block_;
  const std::function<void()>* thread_ = nullptr;
  size_t blocks_ = 0, block_number_ = 0;
  unsigned count_ = 0, fresh_ = 0, finished_ = 0;
  unsigned at_barrier_ = 0, barrier_sum_ = 0, barrier_result_ = 0;
  Thread* first_at_barrier_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Thread* current_ = nullptr;

  // A ring: every thread is in it once at most.
  std::array<Thread*, kLargestBlock> ready_{};
  size_t ready_begin_ = 0, ready_end_ = 0;

  Fiber* fiber_ = nullptr;  ///< that runs
  Fiber root_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::string failure_;

  std::byte* shared_ = nullptr;
  size_t dynamic_bytes_ = 0, static_bytes_ = 0, shared_used_ = 0;
  std::vector<std::pair<size_t, size_t>> opened_;  ///< of shared memory: offsets and bytes
  uint64_t launch_ = 0;
  uint32_t epoch_ = 0;  ///< counts blocks and barriers
  const std::byte* device_ = nullptr;
  size_t device_bytes_ = 0;
  std::unique_ptr<SharedShadow> shared_shadow_;
  std::unique_ptr<DeviceShadow> device_shadow_;
};

}  // namespace dino::simt
