// SPDX-License-Identifier: Apache-2.0
#include "tensor/device.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

#include "tensor/elsewhere.hpp"

namespace dino {
namespace {

TEST(Device, OnlyCpu0IsTheHost) {
  EXPECT_TRUE(Device{}.is_host());
  EXPECT_FALSE((Device{Device::Kind::cpu, 1}.is_host()));
  EXPECT_FALSE((Device{Device::Kind::cuda, 0}.is_host()));
  EXPECT_NE((Device{Device::Kind::cuda, 0}), (Device{Device::Kind::cuda, 1}));
  EXPECT_EQ(Memory::host().device(), Device{});
}

TEST(Memory, OfTheHostIsAlignedAndCleared) {
  Memory& memory = Memory::host();
  for (const size_t bytes : {size_t{1}, size_t{64}, size_t{1000}}) {
    auto* data = static_cast<uint8_t*>(memory.allocate(bytes));
    ASSERT_NE(data, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0U);
    data[0] = data[bytes - 1] = 7;
    memory.zero(data, bytes);
    EXPECT_EQ(data[0], 0);
    EXPECT_EQ(data[bytes - 1], 0);
    memory.release(data, bytes);
  }
}

/// Done after some questions; counts who waited.
class Counted final : public Event::State {
 public:
  [[nodiscard]] bool done() override { return ++asked > 2; }
  void wait() override { ++waited; }
  int asked = 0, waited = 0;
};

TEST(Event, EmptyIsDoneAndOthersAskTheirState) {
  const Event nothing;
  EXPECT_TRUE(nothing.done());
  nothing.synchronize();
  EXPECT_EQ(nothing.state(), nullptr);

  const auto state = std::make_shared<Counted>();
  const Event event(state);
  EXPECT_FALSE(event.done());
  EXPECT_FALSE(event.done());
  EXPECT_TRUE(event.done());
  event.synchronize();
  EXPECT_EQ(state->waited, 1);
  EXPECT_EQ(event.state(), state);
}

TEST(HostStream, HasDoneWhatItWasGiven) {
  HostStream stream;
  EXPECT_EQ(stream.device(), Device{});
  EXPECT_TRUE(stream.record().done());
  stream.synchronize();
  const auto state = std::make_shared<Counted>();
  stream.wait(Event(state));
  EXPECT_EQ(state->waited, 1) << "what the host enqueues next begins after the event";
}

TEST(HostStream, CopiesAndFillsTheHostsMemoryAlone) {
  HostStream stream;
  std::array<uint8_t, 6> from{1, 2, 3, 4, 5, 6}, to{};
  stream.copy_bytes({to.data() + 1, {}}, {from.data(), {}}, 4);
  EXPECT_EQ(to, (std::array<uint8_t, 6>{0, 1, 2, 3, 4, 0}));
  const std::array<std::byte, 2> element{std::byte{8}, std::byte{9}};
  stream.fill_elements({to.data() + 1, {}}, element, 2);
  EXPECT_EQ(to, (std::array<uint8_t, 6>{0, 8, 9, 8, 9, 0}));
  stream.fill_elements({to.data() + 1, {}}, std::array<std::byte, 2>{}, 2);
  EXPECT_EQ(to, (std::array<uint8_t, 6>{}));
  stream.copy_bytes({}, {}, 0);
  stream.fill_elements({}, element, 0);
  EXPECT_THROW(stream.copy_bytes({to.data(), kElsewhere}, {from.data(), {}}, 1), InternalError);
  EXPECT_THROW(stream.copy_bytes({to.data(), {}}, {from.data(), kElsewhere}, 1), InternalError);
  EXPECT_THROW(stream.fill_elements({to.data(), kElsewhere}, element, 1), InternalError);
}

}  // namespace
}  // namespace dino
