// SPDX-License-Identifier: Apache-2.0
#include "step_trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "storage/files.hpp"

namespace dino::pretrain {

StepTrace::StepTrace(int rank, int64_t steps) : rank_(rank), left_(steps) {
  listen_to_spans(this);
}

StepTrace::~StepTrace() {
  listen_to_spans(nullptr);
}

void StepTrace::span(const Told& told) noexcept {
  if (complete() || told.begin < start_) return;
  if (std::strcmp(told.name, kStep) == 0) --left_;
  try {
    if (events_.size() < kMost) {
      events_.push_back(told);
      return;
    }
  } catch (const std::bad_alloc&) {  // a trace is not worth a training
  }
  ++lost_;
}

std::string StepTrace::text() const {
  const auto micros = [](SpanClock::duration time) {
    return std::chrono::duration<double, std::micro>(time).count();
  };
  std::string text =
      fmt::format(R"({{"displayTimeUnit":"ms","otherData":{{"rank":{0},"lost_events":{1}}},"traceEvents":[)"
                  R"({{"name":"process_name","ph":"M","pid":{0},"tid":0,"args":{{"name":"rank {0}"}}}})",
                  rank_, lost_);
  const auto track = std::find_if(events_.begin(), events_.end(), [](const Told& e) { return e.track; });
  if (track != events_.end())
    text += fmt::format(R"(,
{{"name":"thread_name","ph":"M","pid":{0},"tid":0,"args":{{"name":"host"}}}},
{{"name":"thread_name","ph":"M","pid":{0},"tid":1,"args":{{"name":"{1}"}}}})",
                        rank_, track->track);
  for (size_t i = 0; i < events_.size(); ++i) {
    const Told& e = events_[i];
    const std::string head = fmt::format(R"("name":"{}","cat":"{}","pid":{},"tid":{})", e.name, e.category,
                                         rank_, e.track == nullptr ? 0 : 1);
    const std::string args = e.bytes < 0 ? "" : fmt::format(R"(,"args":{{"bytes":{}}})", e.bytes);
    const double begin = micros(e.begin - start_), end = micros(e.end - start_);
    if (std::strcmp(e.category, "transfer") == 0)
      text += fmt::format(
          ",\n{{{0},\"ph\":\"b\",\"id\":{1},\"ts\":{2:.3f}{3}}},\n"
          "{{{0},\"ph\":\"e\",\"id\":{1},\"ts\":{4:.3f}}}",
          head, i, begin, args, end);
    else
      text += fmt::format(",\n{{{},\"ph\":\"X\",\"ts\":{:.3f},\"dur\":{:.3f}{}}}", head, begin, end - begin,
                          args);
  }
  return text + "]}\n";
}

void StepTrace::write(const std::string& folder) const {
  make_folders(folder);
  write_file_atomically(fmt::format("{}/rank_{:04d}.json", folder, rank_), text());
}

}  // namespace dino::pretrain
