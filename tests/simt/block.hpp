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

namespace dino::simt {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kLargestBlock = 1024;

/// A stack on which one thread after the other runs, as long as none of them waits.
class Fiber {
 public:
  explicit Fiber(size_t number);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  /// The next jump to it enters the function, which does not return; whatever it was doing is forgotten.
  void start(void (*function)(boost::context::detail::transfer_t));

  boost::context::detail::fcontext_t context = nullptr;  ///< where it goes on
  void* bottom = nullptr;
  size_t bytes = 0;
  void* fake_stack = nullptr;  ///< the address sanitizer's

 private:
  size_t colour_ = 0;  ///< keeps the tops of all stacks out of one set of the cache
};

struct PendingCopy {
  std::byte* to;
  const std::byte* from;
  size_t bytes;
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
  [[nodiscard]] static Executor& instance();
  void run(const char* name, cuda::Dim grid, cuda::Dim block, size_t dynamic_bytes,
           const std::function<void()>& thread);

  [[nodiscard]] Thread& current() { return *current_; }
  unsigned barrier(unsigned value, const std::source_location& at);
  /// Calls the function once for all lanes of the mask; `brought` is what this one brings.
  void meet(unsigned mask, Meeting::Function function, const char* name, const void* brought,
            const std::source_location& at);
  void* shared_place(SharedPlace& place);
  void* dynamic_shared_memory();
  /// Ends the launch with an error that names the kernel, the block and the thread.
  [[noreturn]] void fail(const std::string& what) { fail(*current_, what); }
  [[noreturn]] void fail(const Thread& thread, const std::string& what);
  [[nodiscard]] bool running() const { return current_ != nullptr; }

 private:
  struct Warp {
    std::vector<Meeting> meetings;
  };

  Executor();
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
  std::unique_ptr<Fiber> root_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::string failure_;

  std::byte* shared_ = nullptr;
  size_t dynamic_bytes_ = 0, shared_used_ = 0;
  uint64_t shared_block_ = 0;  ///< counts blocks over all launches
};

}  // namespace dino::simt
