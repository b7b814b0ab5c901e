// SPDX-License-Identifier: Apache-2.0
#include "tensor/cuda/clock.hpp"

#include <algorithm>
#include <utility>

#include "base/error.hpp"

namespace dino::cuda {

CudaClock::CudaClock(const CudaStream& stream) : stream_(stream), anchor_(new_event(true)) {}

CudaClock::~CudaClock() {
  delete_event(anchor_);
  for (const EventHandle event : free_) delete_event(event);
  for (const Entry& entry : entries_) {
    delete_event(entry.begin);
    delete_event(entry.end);
  }
}

EventHandle CudaClock::take_event() {
  if (free_.empty()) return new_event(true);
  const EventHandle event = free_.back();
  free_.pop_back();
  return event;
}

void CudaClock::open(Entry entry) {
  stream_.make_current();
  entry.begin = take_event();
  entry.end = take_event();
  entries_.push_back(std::move(entry));
  record(entries_.back().begin, stream_.handle());
}

void CudaClock::begin(const char* name) {
  open({"phase", name, nullptr, nullptr, nullptr, Entry::State::open, 0});
}

void CudaClock::begin_wait(std::shared_ptr<AwaitedEvent> event) {
  const char* const name = event->name();
  open({"wait", name, nullptr, nullptr, std::move(event), Entry::State::open, 0});
}

void CudaClock::end() noexcept {
  const auto innermost = std::find_if(entries_.rbegin(), entries_.rend(),
                                      [](const Entry& entry) { return entry.state == Entry::State::open; });
  if (innermost == entries_.rend()) return;
  innermost->ended_before = synchronised_;
  innermost->state = Entry::State::lost;
  try {
    stream_.make_current();
    record(innermost->end, stream_.handle());
    innermost->state = Entry::State::ended;
  } catch (const Error&) {
    // A GPU that has failed tells whoever calls it next; what was under way has no end.
  }
}

void CudaClock::begin_synchronize() {
  stream_.make_current();
  record(anchor_, stream_.handle());
}

void CudaClock::synchronized() {
  at_ = SpanClock::now();
  ++synchronised_;
}

SpanClock::time_point CudaClock::time_of(EventHandle event) const {
  const std::chrono::duration<double> before(seconds_between(event, anchor_));
  return at_ - std::chrono::duration_cast<SpanClock::duration>(before);
}

std::vector<SpanListener::Told> CudaClock::take() {
  stream_.make_current();
  std::vector<SpanListener::Told> told;
  std::deque<Entry> rest;
  for (Entry& entry : entries_) {
    if (entry.state == Entry::State::open || entry.ended_before == synchronised_) {
      rest.push_back(std::move(entry));
      continue;
    }
    free_.insert(free_.end(), {entry.begin, entry.end});
    if (entry.state == Entry::State::lost) continue;
    if (entry.awaited) entry.awaited->stream_waited(seconds_between(entry.begin, entry.end));
    told.push_back({entry.category, entry.name, time_of(entry.begin), time_of(entry.end),
                    entry.awaited ? entry.awaited->bytes() : -1, "GPU"});
  }
  entries_ = std::move(rest);
  return told;
}

}  // namespace dino::cuda
