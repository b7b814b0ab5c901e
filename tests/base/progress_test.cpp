// SPDX-License-Identifier: Apache-2.0
#include "base/progress.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "base/log.hpp"

namespace dino {
namespace {

/// What `body` prints on stderr, which is no terminal here.
template <class Body>
std::string printed(const Body& body) {
  ::testing::internal::CaptureStderr();
  body();
  return ::testing::internal::GetCapturedStderr();
}

/// The number behind `words`, -1 where they are not said.
double number_after(const std::string& text, const std::string& words) {
  const size_t at = text.find(words);
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + words.size(), nullptr);
}

class ProgressLines : public ::testing::Test {
 protected:
  void SetUp() override {
    log::configure("dino-test", 0, 1);
    configure_progress(ProgressStyle::plain, 0);
  }
  void TearDown() override {
    configure_progress(ProgressStyle::off, 0);
    log::stamp_information(false);
  }
};

TEST_F(ProgressLines, InformationIsStampedAndFaultsBeginWithTheProgram) {
  std::string line = printed([] { log::info("listing"); });
  ASSERT_GT(line.size(), 20U);
  for (char& c : line) c = c >= '0' && c <= '9' ? '0' : c;
  EXPECT_EQ(line, "0000-00-00T00:00:00 dino-test: listing\n");
  EXPECT_EQ(printed([] { log::warning("odd"); }), "dino-test: warning: odd\n");
  EXPECT_EQ(printed([] { log::error("bad"); }), "dino-test: error: bad\n");
  log::stamp_information(false);
  EXPECT_EQ(printed([] { log::info("listing"); }), "dino-test: listing\n");
}

TEST_F(ProgressLines, TheFirstLineComesSoonAndTheLastTellsAll) {
  const std::string text = printed([] {
    Progress progress("embed", 400, "images");
    progress.set(1);
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));
    progress.set(100);
    progress.set(400);
    progress.finish();
  });
  // 100 images after 2.1 s, or later on a busy machine.
  const double rate = number_after(text, "embed: 100/400 images, ");
  EXPECT_GT(rate, 5) << text;
  EXPECT_LT(rate, 50) << text;
  EXPECT_LT(text.find(" left"), text.find("embed: 400/400 images, ")) << text;
  EXPECT_TRUE(text.ends_with("\n")) << text;
}

TEST(RecentRate, IsThatOfTheLastHalfMinute) {
  RecentRate rate(1000);
  EXPECT_EQ(rate.at(0, 1000), 0);
  // A minute of 10 a second, then of 2.
  int64_t done = 1000;
  for (int second = 1; second <= 60; ++second) rate.add(second, done += 10);
  EXPECT_DOUBLE_EQ(rate.at(60, done), 10);
  for (int second = 61; second <= 75; ++second) rate.add(second, done += 2);
  EXPECT_NEAR(rate.at(75, done), 6, 0.2);
  for (int second = 76; second <= 120; ++second) rate.add(second, done += 2);
  EXPECT_DOUBLE_EQ(rate.at(120, done), 2);
  // And then nothing for a while.
  EXPECT_NEAR(rate.at(150, done), 1, 0.05);
}

TEST_F(ProgressLines, WhatAnEarlierStartDidIsNoRate) {
  const std::string text = printed([] {
    Progress progress("train", 1'000'000, "steps");
    progress.start_at(900'000);
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));
    progress.set(900'021);
  });
  const double rate = number_after(text, "900021/1000000 steps, ");
  EXPECT_GT(rate, 1) << text;
  EXPECT_LT(rate, 11) << text;
}

TEST_F(ProgressLines, OffIsSilent) {
  configure_progress(ProgressStyle::off, 0);
  EXPECT_EQ(printed([] {
              Progress progress("embed", 2, "images");
              progress.add(2);
              progress.finish();
            }),
            "");
}

}  // namespace
}  // namespace dino
