// SPDX-License-Identifier: Apache-2.0
// Shared memory, and what kernels may touch.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "mapped/sanitizer.hpp"
#include "simt/block.hpp"

namespace dino::simt {
namespace {

/// Between variables of shared memory: nobody's.
constexpr size_t kGap = 32;

size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

std::string text_of(const std::source_location& at) {
  const std::string_view file = at.file_name();
  return fmt::format("{}:{}", file.substr(file.rfind('/') + 1), at.line());
}

// ---- shared memory

void Executor::begin_shared(size_t dynamic_bytes) {
  if (shared_shadow_) shared_shadow_->close(0, shared_used_);
  testing::poison(shared_, kSharedRoom);
  opened_.clear();
  static_bytes_ = 0;
  dynamic_bytes_ = dynamic_bytes;
  shared_used_ = round_up(dynamic_bytes, kGap);
  open_shared(0, dynamic_bytes);
}

void Executor::open_shared(size_t offset, size_t bytes) {
  testing::unpoison(shared_ + offset, bytes);
  std::memset(shared_ + offset, 0xff, bytes);
  if (shared_shadow_) shared_shadow_->open(offset, bytes);
  opened_.push_back({offset, bytes});
}

void Executor::empty_shared() {
  for (const auto& [offset, bytes] : opened_) std::memset(shared_ + offset, 0xff, bytes);
  if (shared_shadow_) shared_shadow_->begin_block(epoch_);
  if (device_shadow_) device_shadow_->begin_block(epoch_);
}

void* Executor::shared_place(SharedPlace& place) {
  if (place.launch == launch_) return place.data;
  const size_t begin = round_up(shared_used_ + kGap, std::max(place.alignment, kGap));
  static_bytes_ += round_up(place.bytes, place.alignment);
  const size_t end = begin + place.bytes;
  if (static_bytes_ > kStaticSharedBytes || static_bytes_ + dynamic_bytes_ > kSharedBytes ||
      end + kGap > kSharedRoom)
    fail(fmt::format("takes {} bytes of static and {} of dynamic shared memory", static_bytes_,
                     dynamic_bytes_));
  open_shared(begin, place.bytes);
  shared_used_ = end;
  place.launch = launch_;
  place.data = shared_ + begin;
  return place.data;
}

void Executor::forget_copies(Thread& thread) {
  const auto forget = [&](const PendingCopy& copy) {
    if (shared_shadow_) shared_shadow_->open(static_cast<size_t>(copy.to - shared_), copy.bytes);
  };
  for (const auto& group : thread.committed) std::for_each(group.begin(), group.end(), forget);
  std::for_each(thread.uncommitted.begin(), thread.uncommitted.end(), forget);
  thread.committed.clear();
  thread.uncommitted.clear();
}

// ---- accesses

void Executor::order_lanes(const Meeting& meeting) {
  Warp& warp = warps_[meeting.lanes->number / kWarp];
  ++warp.stamp;
  const unsigned there = std::min(kWarp, count_ - meeting.lanes->number);
  if (meeting.mask == 0xffffffffu >> (kWarp - there)) {
    warp.all = warp.stamp;
    return;
  }
  std::array<uint32_t, kWarp> merged{};
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if ((meeting.mask >> lane & 1) == 0) continue;
    for (unsigned i = 0; i < kWarp; ++i) merged[i] = std::max(merged[i], warp.lanes[lane][i]);
    merged[lane] = warp.stamp;
  }
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if ((meeting.mask >> lane & 1) != 0) warp.lanes[lane] = merged;
}

Fault Executor::fault_of(const Thread& thread, const void* data, size_t bytes, Access access,
                         std::string& other) {
  const auto* begin = static_cast<const std::byte*>(data);
  const Moment now = moment_of(thread);
  unsigned with = thread.number;
  Fault fault = Fault::none;
  if (is_shared(data))
    fault = shared_shadow_->access(static_cast<size_t>(begin - shared_), bytes, access, now, with);
  else if (is_device(data))
    fault = device_shadow_->access(static_cast<size_t>(begin - device_), bytes, access, now, with);
  if (fault < Fault::pending) return fault;
  if (with == DeviceShadow::kAnotherBlock)
    other = "another block";
  else
    other = with == thread.number ? "other threads" : place_of(threads_[with]);
  return fault;
}

void Executor::fail_access(const Thread& thread, const void* data, size_t bytes, Access access, Fault fault,
                           const std::string& other, const std::string& where) {
  const auto* begin = static_cast<const std::byte*>(data);
  const bool shared = is_shared(data);
  fail(thread, fmt::format("{} {} bytes of {} memory at {:#x} {}{}{} ({})",
                           access == Access::read ? "reads" : "writes", bytes, shared ? "shared" : "device",
                           begin - (shared ? shared_ : device_), text_of(fault), other.empty() ? "" : " ",
                           other, where));
}

void Executor::watch(const void* at, size_t bytes, Access access, const void* code) {
  Executor* const self = instance_;
  if (self == nullptr || self->current_ == nullptr) return;
  if (!self->is_shared(at) && !self->is_device(at)) return;
  std::string other;
  const Fault fault = self->fault_of(*self->current_, at, bytes, access, other);
  if (fault == Fault::none) return;
  self->fail_access(*self->current_, at, bytes, access, fault, other, source_line(code));
}

void Executor::check(const Thread& thread, const void* data, size_t bytes, Access access,
                     const std::source_location& at) {
  if (!kWatched) return;
  std::string other;
  const Fault fault = fault_of(thread, data, bytes, access, other);
  if (fault != Fault::none) fail_access(thread, data, bytes, access, fault, other, text_of(at));
}

void Executor::check_atomic(const void* data, size_t bytes, const std::source_location& at) {
  if (!kWatched) return;
  const auto* begin = static_cast<const std::byte*>(data);
  if (is_device(data)) {
    if (!device_shadow_->is_allocated(static_cast<size_t>(begin - device_), bytes))
      fail_access(*current_, data, bytes, Access::write, Fault::outside, "", text_of(at));
    // Counters order blocks in ways that are not looked at.
    device_shadow_->blocks_meet();
    return;
  }
  if (!is_shared(data)) fail(fmt::format("works atomically on memory of the host ({})", text_of(at)));
  const Fault fault =
      shared_shadow_->touch_atomically(static_cast<size_t>(begin - shared_), bytes, moment_of(*current_));
  if (fault != Fault::none) fail_access(*current_, data, bytes, Access::write, fault, "", text_of(at));
}

void Executor::begin_copy(const PendingCopy& copy) {
  if (!is_shared(copy.to))
    fail(fmt::format("copies asynchronously to other than shared memory ({})", text_of(copy.at)));
  if (!kWatched) return;
  unsigned with = current_->number;
  const Fault fault = shared_shadow_->begin_copy(static_cast<size_t>(copy.to - shared_), copy.bytes,
                                                 moment_of(*current_), with);
  if (fault == Fault::none) return;
  fail_access(*current_, copy.to, copy.bytes, Access::write, fault, place_of(threads_[with]),
              text_of(copy.at));
}

void Executor::end_copy(const PendingCopy& copy) {
  if (copy.from != nullptr) check(*current_, copy.from, copy.bytes, Access::read, copy.at);
  if (copy.from == nullptr)
    std::memset(copy.to, 0, copy.bytes);
  else
    std::memcpy(copy.to, copy.from, copy.bytes);
  if (kWatched)
    shared_shadow_->write(static_cast<size_t>(copy.to - shared_), copy.bytes, moment_of(*current_));
}

void Executor::watch_device(const void* begin, size_t bytes) {
  device_ = static_cast<const std::byte*>(begin);
  device_bytes_ = bytes;
  if (kWatched) device_shadow_ = std::make_unique<DeviceShadow>(bytes);
}
void Executor::watch_allocated(const void* data, size_t bytes) {
  if (device_shadow_)
    device_shadow_->allocated(static_cast<size_t>(static_cast<const std::byte*>(data) - device_), bytes);
}
void Executor::watch_released(const void* data, size_t bytes) {
  if (device_shadow_)
    device_shadow_->released(static_cast<size_t>(static_cast<const std::byte*>(data) - device_), bytes);
}

// ---- what kernels and the host call

void* shared_place(SharedPlace& place) {
  return Executor::instance().shared_place(place);
}
void* dynamic_shared_memory() {
  return Executor::instance().dynamic_shared_memory();
}
void touch_atomically(const void* at, size_t bytes, const std::source_location& location) {
  Executor::instance().check_atomic(at, bytes, location);
}
void watch_device(const void* begin, size_t bytes) {
  Executor::instance().watch_device(begin, bytes);
}
void watch_allocated(const void* data, size_t bytes) {
  Executor::instance().watch_allocated(data, bytes);
}
void watch_released(const void* data, size_t bytes) {
  Executor::instance().watch_released(data, bytes);
}

}  // namespace dino::simt
