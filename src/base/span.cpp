// SPDX-License-Identifier: Apache-2.0
#include "base/span.hpp"

namespace dino {
namespace {

thread_local SpanListener* span_listener = nullptr;

}  // namespace

void listen_to_spans(SpanListener* listener) {
  span_listener = listener;
}

bool spans_are_heard() {
  return span_listener != nullptr;
}

void tell_span(const SpanListener::Told& told) {
  if (span_listener != nullptr) span_listener->span(told);
}

Span::Span(const char* name, const char* category, int64_t bytes)
    : name_(name), category_(category), bytes_(bytes), heard_(spans_are_heard()) {
  if (heard_) begin_ = SpanClock::now();
}

Span::~Span() {
  if (heard_) tell_span({category_, name_, begin_, SpanClock::now(), bytes_});
}

}  // namespace dino
