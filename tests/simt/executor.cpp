// SPDX-License-Identifier: Apache-2.0
#include "simt/executor.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "mapped/sanitizer.hpp"
#include "simt/block.hpp"

namespace dino::simt {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

Places places;

// ---- fibers

namespace {

constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kPage = 4096;

bool same(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

}  // namespace

Fiber::Fiber(size_t number) : bytes(kStackBytes - kPage), colour_(number * 576 % kPage / 64 * 64) {
  void* const data =
      mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw_errno("map", "the stack of a fiber");
  mapped_ = static_cast<std::byte*>(data);
  if (mprotect(mapped_, kPage, PROT_NONE) != 0) throw_errno("protect", "the end of a stack");
  bottom = mapped_ + kPage;
}

Fiber::~Fiber() {
  if (mapped_ != nullptr) munmap(mapped_, kStackBytes);
}

void Fiber::start(void (*function)(transfer_t)) {
  testing::unpoison(bottom, bytes);
  context = make_fcontext(mapped_ + kStackBytes - colour_, bytes - colour_, function);
}

// ---- a launch

Executor::Executor() {
  shared_ = static_cast<std::byte*>(
      mmap(nullptr, kSharedRoom, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (shared_ == MAP_FAILED) throw_errno("map", "shared memory");
  if (kWatched) shared_shadow_ = std::make_unique<SharedShadow>(kSharedRoom);
}

void Executor::run(const char* name, cuda::Dim grid, cuda::Dim block, size_t dynamic_bytes,
                   const std::function<void()>& thread) {
  DINO_CHECK(current_ == nullptr, "a kernel starts a kernel");
  DINO_CHECK(block.volume() > 0 && block.volume() <= kLargestBlock && block.z <= 64,
             fmt::format("{}: a block of {} x {} x {} threads", name, block.x, block.y, block.z));
  DINO_CHECK(grid.volume() > 0 && grid.x <= 0x7fffffffu && grid.y <= 0xffffu && grid.z <= 0xffffu,
             fmt::format("{}: a grid of {} x {} x {} blocks", name, grid.x, grid.y, grid.z));
  DINO_CHECK(dynamic_bytes <= kSharedBytes,
             fmt::format("{}: {} bytes of shared memory, more than {}", name, dynamic_bytes, kSharedBytes));
  kernel_ = name;
  grid_ = grid;
  block_ = block;
  thread_ = &thread;
  blocks_ = grid.volume();
  count_ = static_cast<unsigned>(block.volume());
  places.block_size = {block.x, block.y, block.z};
  places.grid_size = {grid.x, grid.y, grid.z};
  threads_.resize(std::max<size_t>(threads_.size(), count_));
  warps_.resize(std::max<size_t>(warps_.size(), (count_ + kWarp - 1) / kWarp));
  failure_.clear();
  ++launch_;
  begin_shared(dynamic_bytes);
  if (device_shadow_) device_shadow_->begin_launch(epoch_ + 1);
  begin_block(0);
  fiber_ = &root_;
  jump(idle_fiber());
  current_ = nullptr;
  if (failure_.empty()) return;
  for (Warp& warp : warps_) warp.meetings.clear();
  idle_.clear();
  for (const auto& fiber : fibers_) {
    fiber->start(enter);
    idle_.push_back(fiber.get());
  }
  throw InternalError(failure_);
}

void Executor::begin_block(size_t number) {
  block_number_ = number;
  places.block = {static_cast<unsigned>(number % grid_.x), static_cast<unsigned>(number / grid_.x % grid_.y),
                  static_cast<unsigned>(number / grid_.x / grid_.y)};
  fresh_ = finished_ = at_barrier_ = barrier_sum_ = 0;
  ready_begin_ = ready_end_ = 0;
  for (unsigned i = 0; i < count_; ++i) {
    Thread& thread = threads_[i];
    // Asynchronous copies that nobody waited for arrive too late to be seen.
    forget_copies(thread);
    thread.state = Thread::State::fresh;
    thread.number = i;
    thread.index = {i % block_.x, i / block_.x % block_.y, i / block_.x / block_.y};
  }
  ++epoch_;
  empty_shared();
}

/// What a fiber does: threads that have not begun, and when there is none, somebody else's turn.
void Executor::run_threads() {
  for (;;) {
    while (ready_begin_ == ready_end_ && fresh_ < count_) {
      Thread& thread = threads_[fresh_++];
      thread.state = Thread::State::running;
      current_ = &thread;
      places.thread = thread.index;
      (*thread_)();
      current_->state = Thread::State::finished;
      if (++finished_ == count_ && ++block_number_ < blocks_) begin_block(block_number_);
    }
    Fiber& self = *fiber_;
    Fiber& next = finished_ == count_ ? root_ : next_fiber();
    idle_.push_back(&self);
    jump(next);
  }
}

void Executor::arrived(transfer_t from, void* fake_stack) {
  auto* const left = static_cast<Fiber*>(from.data);
  left->context = from.fctx;
  testing::arrive_on_stack(fake_stack, &left->bottom, &left->bytes);
}

void Executor::enter(transfer_t from) {
  arrived(from, nullptr);
  instance_->run_threads();
}

void Executor::jump(Fiber& to) {
  Fiber& from = *fiber_;
  fiber_ = &to;
  testing::leave_stack(&from.fake_stack, to.bottom, to.bytes);
  arrived(jump_fcontext(to.context, &from), from.fake_stack);
}

Fiber& Executor::idle_fiber() {
  if (idle_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>(fibers_.size()));
    fibers_.back()->start(enter);
    idle_.push_back(fibers_.back().get());
  }
  Fiber& fiber = *idle_.back();
  idle_.pop_back();
  return fiber;
}

Fiber& Executor::next_fiber() {
  if (ready_begin_ != ready_end_) {
    Thread& thread = *ready_[ready_begin_++ % kLargestBlock];
    thread.state = Thread::State::running;
    current_ = &thread;
    places.thread = thread.index;
    return *thread.fiber;
  }
  if (fresh_ < count_) return idle_fiber();
  report_stuck();
}

void Executor::make_ready(Thread& thread) {
  thread.state = Thread::State::ready;
  ready_[ready_end_++ % kLargestBlock] = &thread;
}

void Executor::wait(Thread::State state, const char* what, const std::source_location& at) {
  Thread& self = *current_;
  self.state = state;
  self.waits_in = what;
  self.at = at;
  self.fiber = fiber_;
  jump(next_fiber());
}

// ---- barriers and meetings

unsigned Executor::barrier(unsigned value, const std::source_location& at) {
  if (at_barrier_ == 0) {
    first_at_barrier_ = current_;
    current_->at = at;
    barrier_sum_ = 0;
  } else if (!same(at, first_at_barrier_->at)) {
    fail(fmt::format("is at the barrier of {}, while {} waits at that of {}", text_of(at),
                     place_of(*first_at_barrier_), text_of(first_at_barrier_->at)));
  }
  barrier_sum_ += value;
  if (++at_barrier_ < count_) {
    wait(Thread::State::at_barrier, "__syncthreads", at);
    return barrier_result_;
  }
  at_barrier_ = 0;
  ++epoch_;
  barrier_result_ = barrier_sum_;
  for (unsigned i = 0; i < count_; ++i)
    if (&threads_[i] != current_) make_ready(threads_[i]);
  return barrier_result_;
}

void Executor::meet(unsigned mask, Meeting::Function function, const char* name, const void* brought,
                    const std::source_location& at) {
  const unsigned lane = current_->number % kWarp, bit = 1u << lane;
  Thread* const lanes = &threads_[current_->number - lane];
  if ((mask & bit) == 0)
    fail(fmt::format("is not in the mask {:#x} of its {} at {}", mask, name, text_of(at)));
  const unsigned there = std::min(kWarp, count_ - (current_->number - lane));
  if (there < kWarp && mask >> there != 0)
    fail(fmt::format("the mask {:#x} of {} at {} names lanes that the block does not have", mask, name,
                     text_of(at)));
  std::vector<Meeting>& meetings = warps_[current_->number / kWarp].meetings;
  size_t m = 0;
  while (m < meetings.size() && (meetings[m].mask & mask) == 0) ++m;
  if (m == meetings.size()) meetings.push_back({function, name, mask, 0, at, lanes, {}});
  Meeting& meeting = meetings[m];
  if (meeting.mask != mask || meeting.function != function || !same(meeting.at, at))
    fail(
        fmt::format("is in {} at {} with mask {:#x}, while lanes of its warp are in {} at {} with mask {:#x}",
                    name, text_of(at), mask, meeting.name, text_of(meeting.at), meeting.mask));
  meeting.brought[lane] = brought;
  meeting.arrived |= bit;
  if (meeting.arrived != mask) {
    wait(Thread::State::at_warp, name, at);
    return;
  }
  function(meeting);
  meetings.erase(meetings.begin() + static_cast<std::ptrdiff_t>(m));
  for (unsigned l = 0; l < there; ++l)
    if ((mask >> l & 1) != 0 && l != lane) make_ready(lanes[l]);
}

// ---- errors

std::string Executor::place_of(const Thread& thread) const {
  return fmt::format("thread ({}, {}, {})", thread.index.x, thread.index.y, thread.index.z);
}

void Executor::fail(const Thread& thread, const std::string& what) {
  failure_ = fmt::format("kernel {}, block ({}, {}, {}), {}: {}", kernel_, places.block.x, places.block.y,
                         places.block.z, place_of(thread), what);
  // Threads are left where they are: what runs on a GPU holds nothing that has to be given back.
  testing::leave_stack(nullptr, root_.bottom, root_.bytes);
  jump_fcontext(root_.context, fiber_);
  __builtin_unreachable();
}

void Executor::report_stuck() {
  const Thread* waiting = nullptr;
  const Thread* done = nullptr;
  for (unsigned i = 0; i < count_; ++i) {
    const Thread& thread = threads_[i];
    // A warp operation that misses lanes says more than a barrier that waits for these.
    if (thread.state == Thread::State::at_warp && (waiting == nullptr || waiting->state != thread.state))
      waiting = &thread;
    if (thread.state == Thread::State::at_barrier && waiting == nullptr) waiting = &thread;
    if (thread.state == Thread::State::finished) done = &thread;
  }
  const bool at_barrier = waiting->state == Thread::State::at_barrier;
  std::string why;
  if (!at_barrier) {
    const unsigned first = waiting->number / kWarp * kWarp;
    for (const Meeting& meeting : warps_[waiting->number / kWarp].meetings)
      if ((meeting.arrived >> (waiting->number - first) & 1) != 0)
        why = fmt::format(" for the lanes {:#x} of mask {:#x}, which never come",
                          meeting.mask & ~meeting.arrived, meeting.mask);
  } else if (done != nullptr) {
    why = fmt::format(", while {} has finished", place_of(*done));
  }
  fail(*waiting, fmt::format("waits in {} at {}{}", waiting->waits_in, text_of(waiting->at), why));
}

// ---- what kernels call

unsigned barrier(unsigned value, const std::source_location& at) {
  return Executor::instance().barrier(value, at);
}
void run_kernel(const char* name, cuda::Dim grid, cuda::Dim block, size_t dynamic_bytes,
                const std::function<void()>& thread) {
  Executor::instance().run(name, grid, block, dynamic_bytes, thread);
}

}  // namespace dino::simt
