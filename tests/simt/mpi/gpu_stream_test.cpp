// SPDX-License-Identifier: Apache-2.0
// A GPU's streams: staging, events, fills, scratch, on the executor.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "base/error.hpp"
#include "simt/device.hpp"
#include "tensor/cuda/device.hpp"

namespace dino::cuda {
namespace {

class GpuStream : public ::testing::TestWithParam<uint64_t> {
 protected:
  GpuStream() {
    simt::set_order(GetParam());
    use_device(0);
  }
  ~GpuStream() override { simt::set_order(0); }
  CudaMemory memory_{0};
  CudaStream stream_{memory_};
};

TEST_P(GpuStream, TheHostsSourceMayChangeAtOnce) {
  // More than all pinned pieces hold, and no multiple of one.
  constexpr int64_t kN = (40 << 20) / 8 + 3;
  Tensor host(Shape{kN}, DType::i64), there = Tensor::uninitialised(Shape{kN}, DType::i64, memory_),
                                      back(Shape{kN}, DType::i64);
  std::iota(host.as<int64_t>(), host.as<int64_t>() + kN, int64_t{5});
  copy(stream_, there, host);
  std::fill_n(host.as<int64_t>(), kN, int64_t{-1});
  copy(stream_, back, there);
  stream_.synchronize();
  for (int64_t i = 0; i < kN; ++i) ASSERT_EQ(back.as<int64_t>()[i], i + 5);
}

TEST_P(GpuStream, ManySmallCopiesKeepTheirOrder) {
  constexpr int64_t kTimes = 30000, kN = 37;
  Tensor there = Tensor::uninitialised(Shape{kN}, DType::i32, memory_);
  std::vector<int32_t> source(kN), results(static_cast<size_t>(kTimes * kN));
  for (int32_t i = 0; i < kTimes; ++i) {
    std::fill(source.begin(), source.end(), i);
    copy(stream_, there, view_of(source.data(), Shape{kN}));
    copy(stream_, view_of(results.data() + i * kN, Shape{kN}), there);
  }
  stream_.synchronize();
  for (int64_t i = 0; i < kTimes * kN; ++i) ASSERT_EQ(results[static_cast<size_t>(i)], i / kN);
  // The same target twice, without a wait between: the later copy stays.
  source.assign(kN, 1);
  copy(stream_, there, view_of(source.data(), Shape{kN}));
  copy(stream_, view_of(results.data(), Shape{kN}), there);
  source.assign(kN, 2);
  copy(stream_, there, view_of(source.data(), Shape{kN}));
  copy(stream_, view_of(results.data(), Shape{kN}), there);
  stream_.synchronize();
  EXPECT_EQ(results[0], 2);
  EXPECT_EQ(results[kN - 1], 2);
}

TEST_P(GpuStream, EventsOutliveTheirStream) {
  Tensor there = Tensor::uninitialised(Shape{100}, DType::f32, memory_);
  Event event;
  {
    CudaStream other(memory_);
    fill(other, there, 3);
    event = other.record();
  }
  stream_.wait(event);
  Tensor back(Shape{100});
  copy(stream_, back, there);
  stream_.synchronize();
  EXPECT_TRUE(event.done());
  event.synchronize();
  EXPECT_EQ(back.as<float>()[99], 3);
}

TEST_P(GpuStream, WaitsForOtherStreamsAndForEventsOfOtherKinds) {
  CudaStream other(memory_);
  Tensor there = Tensor::uninitialised(Shape{1000}, DType::f32, memory_), back(Shape{1000});
  fill(other, there, 1);
  stream_.wait(other.record());
  fill(stream_, there.view().rows(0, 500), 2);
  copy(stream_, back, there);
  stream_.synchronize();
  EXPECT_EQ(back.as<float>()[0], 2);
  EXPECT_EQ(back.as<float>()[999], 1);
  struct Told final : Event::State {
    bool waited = false;
    bool done() override { return waited; }
    void wait() override { waited = true; }
  };
  const auto told = std::make_shared<Told>();
  stream_.wait(Event(told));
  EXPECT_TRUE(told->waited);
  stream_.wait({});
}

TEST_P(GpuStream, FillsEveryWidth) {
  for (const DType dtype :
       {DType::u8, DType::bf16, DType::f16, DType::f32, DType::i32, DType::f64, DType::i64}) {
    for (const float value : {0.0F, 3.0F}) {
      Tensor there = Tensor::uninitialised(Shape{77}, dtype, memory_), back(Shape{77}, dtype),
             expected(Shape{77}, dtype);
      HostStream host;
      fill(host, expected, value);
      fill(stream_, there, value);
      copy(stream_, back, there);
      stream_.synchronize();
      EXPECT_EQ(std::memcmp(back.view().data, expected.view().data, static_cast<size_t>(back.bytes())), 0)
          << name_of(dtype);
    }
  }
}

TEST_P(GpuStream, ScratchStaysUntilItGrows) {
  void* const small = stream_.scratch(100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(small) % 256, 0u);
  EXPECT_EQ(stream_.scratch(200), small);
  EXPECT_NE(stream_.scratch(size_t{9} << 20), nullptr);
  void* const large = stream_.scratch(size_t{9} << 20);
  EXPECT_EQ(stream_.scratch(1), large);
}

TEST_P(GpuStream, WhileTheHostWaitsOthersAreServed) {
  int served = 0;
  set_host_wait([&served](const std::function<bool()>& finished) {
    ++served;
    while (!finished()) {
    }
  });
  Tensor there = Tensor::uninitialised(Shape{10}, DType::f32, memory_), back(Shape{10});
  fill(stream_, there, 4);
  copy(stream_, back, there);
  stream_.synchronize();
  set_host_wait({});
  EXPECT_EQ(back.as<float>()[9], 4);
  EXPECT_LE(served, 1);  // none where all was done already
}

TEST_P(GpuStream, OtherDevicesBytesAreRefused) {
  Tensor here(Shape{4}), there = Tensor::uninitialised(Shape{4}, DType::f32, memory_);
  HostStream host;
  EXPECT_THROW(copy(stream_, here, here), InternalError);
  EXPECT_THROW(fill(stream_, here, 1), InternalError);
  EXPECT_THROW((void)cuda_stream(host), InternalError);
  EXPECT_EQ(&cuda_stream(stream_), &stream_);
  EXPECT_THROW((void)pointer<float>(ConstTensorView(here)), InternalError);
  EXPECT_THROW((void)pointer<double>(ConstTensorView(there)), InternalError);
  EXPECT_EQ(pointer<float>(ConstTensorView(there)), there.view().data);
  EXPECT_EQ(pointer<float>(ConstTensorView{}), nullptr);
}

double seconds_of(const SpanListener::Told& told) {
  return std::chrono::duration<double>(told.end - told.begin).count();
}

/// Each copy, and each fill, takes a second of the GPU's clock.
class GpuClock : public GpuStream {
 protected:
  GpuClock() { simt::set_pace({0, 0, 1, 0, 0, 0}); }
  ~GpuClock() override { simt::set_pace({}); }
  void fill_for(CudaStream& stream, int seconds) {
    for (int i = 0; i < seconds; ++i) fill(stream, there_, 1);
  }
  Tensor there_ = Tensor::uninitialised(Shape{8}, DType::f32, memory_);
};

TEST_P(GpuClock, TellsPhasesOnceTheStreamIsSynchronised) {
  StreamClock* const clock = stream_.clock();
  ASSERT_NE(clock, nullptr);
  EXPECT_EQ(stream_.clock(), clock);
  EXPECT_TRUE(clock->take().empty());
  fill_for(stream_, 7);  // before
  {
    ClockSpan outer(clock, "outer");
    fill_for(stream_, 2);
    {
      const ClockSpan inner(clock, "inner");
      fill_for(stream_, 3);
    }
    fill_for(stream_, 1);
    outer.stop();
    fill_for(stream_, 5);  // behind
  }
  const ClockSpan later(clock, "open");
  EXPECT_TRUE(clock->take().empty());
  stream_.synchronize();
  const std::vector<SpanListener::Told> told = clock->take();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_STREQ(told[0].name, "outer");
  EXPECT_STREQ(told[0].category, "phase");
  EXPECT_STREQ(told[0].track, "GPU");
  EXPECT_STREQ(told[1].name, "inner");
  EXPECT_NEAR(seconds_of(told[0]), 6, 1e-6);
  EXPECT_NEAR(seconds_of(told[1]), 3, 1e-6);
  EXPECT_NEAR(std::chrono::duration<double>(told[1].begin - told[0].begin).count(), 2, 1e-6);
  // In the host's time: the stream's end is when the host had waited for it.
  EXPECT_NEAR(std::chrono::duration<double>(SpanClock::now() - told[0].end).count(), 5, 1);
  EXPECT_TRUE(clock->take().empty());
}

TEST_P(GpuClock, TellsWhatIsOpenAtASynchronisationAtTheNext) {
  StreamClock* const clock = stream_.clock();
  {
    const ClockSpan span(clock, "long");
    fill_for(stream_, 2);
    stream_.synchronize();
    EXPECT_TRUE(clock->take().empty());
    fill_for(stream_, 2);
  }
  EXPECT_TRUE(clock->take().empty());
  stream_.synchronize();
  const std::vector<SpanListener::Told> told = clock->take();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_NEAR(seconds_of(told[0]), 4, 1e-6);
}

class Awaited final : public AwaitedEvent {
 public:
  Awaited(const CudaStream& stream, double& waited) : AwaitedEvent(0, stream.handle()), waited_(waited) {}
  [[nodiscard]] const char* name() const override { return "gather"; }
  [[nodiscard]] int64_t bytes() const override { return 12; }
  void stream_waited(double seconds) override { waited_ += seconds; }

 private:
  double& waited_;
};

TEST_P(GpuClock, CountsHowLongAStreamStoodStill) {
  CudaStream other(memory_, Priority::high);
  double waited = 0;
  fill_for(other, 10);
  const Event uncounted(std::make_shared<Awaited>(other, waited));
  stream_.wait(uncounted);  // nobody listens to this clock
  StreamClock* const clock = stream_.clock();
  fill_for(other, 10);
  const Event late(std::make_shared<Awaited>(other, waited));
  fill_for(stream_, 4);
  stream_.wait(late);
  fill_for(stream_, 3);
  stream_.wait(late);  // passed already
  stream_.wait(other.record());
  EXPECT_EQ(waited, 0);
  stream_.synchronize();
  const std::vector<SpanListener::Told> told = clock->take();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_STREQ(told[0].category, "wait");
  EXPECT_STREQ(told[0].name, "gather");
  EXPECT_EQ(told[0].bytes, 12);
  EXPECT_NEAR(seconds_of(told[0]), 6, 1e-6);
  EXPECT_NEAR(seconds_of(told[1]), 0, 1e-6);
  EXPECT_NEAR(waited, 6, 1e-9);
}

TEST_P(GpuClock, OnlyTimedEventsThatWerePassedHaveATime) {
  const EventHandle timed = new_event(true), plain = new_event();
  record(plain, stream_.handle());
  fill_for(stream_, 3);
  record(timed, stream_.handle());
  stream_.synchronize();
  EXPECT_THROW((void)seconds_between(plain, timed), InternalError);
  EXPECT_EQ(seconds_between(timed, timed), 0);
  fill_for(stream_, 40);
  record(timed, stream_.handle());
  if (GetParam() == 0) {
    EXPECT_THROW((void)seconds_between(timed, timed), InternalError);
  }
  stream_.synchronize();
  delete_event(timed);
  delete_event(plain);
}

INSTANTIATE_TEST_SUITE_P(Orders, GpuClock, ::testing::Values(0, 1, 2),
                         [](const auto& values) { return std::to_string(values.param); });
INSTANTIATE_TEST_SUITE_P(Orders, GpuStream, ::testing::Values(0, 1, 2),
                         [](const auto& values) { return std::to_string(values.param); });

}  // namespace
}  // namespace dino::cuda
