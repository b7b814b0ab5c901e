// SPDX-License-Identifier: Apache-2.0
#include "base/cpu.hpp"

#include <gtest/gtest.h>

#include "base/error.hpp"
#include "base/signals.hpp"
#include "base/text.hpp"
#include "base/timing.hpp"

#include <csignal>

namespace dino {
namespace {

TEST(Cpu, LevelsCanBeLoweredAndRestored) {
  const CpuLevel before = cpu_level();
  const std::vector<CpuLevel> levels = available_cpu_levels();
  ASSERT_FALSE(levels.empty());
  EXPECT_EQ(levels.front(), CpuLevel::baseline);
  EXPECT_LE(before, levels.back());
  for (const CpuLevel level : levels) {
    set_cpu_level(level);
    EXPECT_EQ(cpu_level(), level);
    EXPECT_EQ(cpu_has_bf16(), level == CpuLevel::avx512bf16);
    if (level < CpuLevel::avx512) {
      EXPECT_FALSE(cpu_has_vnni());
    }
  }
  if (levels.back() != CpuLevel::avx512bf16) {
    EXPECT_THROW(set_cpu_level(CpuLevel::avx512bf16), InternalError);
  }
  set_cpu_level(before);
}

TEST(Signals, AskForAStop) {
  install_stop_handlers();
  for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) {
    clear_stop_request();
    EXPECT_FALSE(stop_requested());
    std::raise(signal);
    EXPECT_TRUE(stop_requested()) << signal;
  }
  clear_stop_request();
}

TEST(Timing, HumanUnits) {
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(3 * 512 * 1024), "1.5 MiB");
  EXPECT_EQ(human_seconds(3.44), "3.4 s");
  EXPECT_EQ(human_seconds(125), "2 min 05 s");
  EXPECT_EQ(human_seconds(3720), "1 h 02 min");
  EXPECT_EQ(human_seconds(90000), "1 d 01 h");
  EXPECT_EQ(utc_now().size(), 20u);
  EXPECT_GT(current_rss_bytes(), 1 << 20);
  EXPECT_GE(peak_rss_bytes(), current_rss_bytes());
}

TEST(Text, EditDistanceCountsSwapsOnce) {
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("dedup", "dedup"), 0u);
  EXPECT_EQ(edit_distance("dedup", "deudp"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(nearest_name("clutser", {"balance", "cluster"}), "cluster");
  EXPECT_EQ(nearest_name("qqqq", {"balance", "cluster"}), "");
}

}  // namespace
}  // namespace dino
