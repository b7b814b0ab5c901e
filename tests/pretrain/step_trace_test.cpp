// SPDX-License-Identifier: Apache-2.0
// Spans as a trace of the Trace Event Format.
#include "step_trace.hpp"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "base/json.hpp"
#include "base/log.hpp"
#include "model/temporary_folder.hpp"
#include "storage/files.hpp"

namespace dino::pretrain {
namespace {

std::string text(const Json& event, const char* field) {
  return event.at(field).get<std::string>();
}

Json written(const StepTrace& trace, const TemporaryFolder& folder) {
  trace.write(folder.path() + "/trace");
  return Json::parse(read_text(folder.path() + "/trace/rank_0003.json"));
}

TEST(StepTrace, HoldsSpansPhasesAndTransfers) {
  const TemporaryFolder folder;
  StepTrace trace(3, 1);
  EXPECT_TRUE(spans_are_heard());
  {
    const Span step(StepTrace::kStep);
    const log::Phase phase("train step");
    const Span wait("all_gather", "wait", 128);
    const auto now = SpanClock::now();
    tell_span({"transfer", "all_reduce", now, now, 64});
    std::thread([] { const Span other("of another thread"); }).join();
  }
  EXPECT_TRUE(trace.complete());
  { const Span late("after the last step"); }
  const Json json = written(trace, folder);
  const Json& events = json["traceEvents"];
  ASSERT_EQ(events.size(), 6U) << json.dump(1);
  EXPECT_EQ(text(events[1], "name"), "all_reduce");
  EXPECT_EQ(text(events[1], "ph"), "b");
  EXPECT_EQ(events[1]["args"]["bytes"].get<int>(), 64);
  EXPECT_EQ(text(events[2], "ph"), "e");
  EXPECT_EQ(events[2]["id"].get<int>(), events[1]["id"].get<int>());
  for (int i = 3; i < 6; ++i) EXPECT_EQ(text(events[i], "ph"), "X");
  EXPECT_EQ(events[3]["args"]["bytes"].get<int>(), 128);
  EXPECT_EQ(text(events[4], "name"), "train step");
  EXPECT_EQ(text(events[5], "name"), "step");
  for (int i = 3; i < 5; ++i) {
    EXPECT_GE(events[i]["ts"].get<double>(), events[i + 1]["ts"].get<double>());
    EXPECT_LE(events[i]["ts"].get<double>() + events[i]["dur"].get<double>(),
              events[i + 1]["ts"].get<double>() + events[i + 1]["dur"].get<double>() + 0.002);
  }
}

TEST(StepTrace, IsBounded) {
  const TemporaryFolder folder;
  StepTrace trace(3, 1);
  const auto now = SpanClock::now();  // what began before a trace is not its own
  for (size_t i = 0; i < StepTrace::kMost + 10; ++i) tell_span({"phase", "x", now, now, -1});
  const Json json = written(trace, folder);
  EXPECT_EQ(json["traceEvents"].size(), StepTrace::kMost + 1);
  EXPECT_EQ(json["otherData"]["lost_events"].get<int>(), 10);
}

TEST(StepTrace, NobodyListensAfterItsEnd) {
  { const StepTrace trace(0, 1); }
  EXPECT_FALSE(spans_are_heard());
}

}  // namespace
}  // namespace dino::pretrain
