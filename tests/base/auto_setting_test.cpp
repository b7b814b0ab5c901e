// SPDX-License-Identifier: Apache-2.0
#include "base/auto_setting.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

#include "base/options.hpp"

namespace dino {
namespace {

struct Settings {
  Auto<int64_t> batch;
  Auto<double> rate;
  Auto<std::string> preset;
  Auto<bool> pad;
  StepCount warmup = StepCount::percent(10);
};

OptionTable table_of(Settings& settings) {
  using C = Settings;
  Schema<C> schema;
  schema.add("batch", &C::batch, "Images.").range(1, 100);
  schema.add("rate", &C::rate, "Rate.").range(0, 1);
  schema.add("preset", &C::preset, "Model.").choices({"auto", "small", "large"});
  schema.add("pad", &C::pad, "Pad.");
  schema.add("warmup", &C::warmup, "Warm-up.");
  OptionTable table;
  table.bind(schema, settings);
  return table;
}

Settings parsed(const std::vector<std::string>& words) {
  Settings settings;
  table_of(settings).parse(words);
  return settings;
}

TEST(Auto, IsChosenUnlessGiven) {
  Settings settings = parsed({"--batch", "7", "--preset", "small", "--pad"});
  EXPECT_TRUE(settings.rate.is_auto());
  settings.batch.choose(64);
  settings.rate.choose(0.5);
  EXPECT_EQ(settings.batch, 7);
  EXPECT_EQ(settings.rate, 0.5);
  EXPECT_EQ(settings.preset.value(), "small");
  EXPECT_TRUE(settings.pad.value());
  EXPECT_THROW((void)parsed({}).batch.value(), InternalError);
}

TEST(Auto, TheWordAutoIsTakenEverywhereAndGivenBack) {
  const Settings settings = parsed({"--batch", "auto", "--preset=auto", "--pad", "auto", "--rate", "auto"});
  EXPECT_TRUE(settings.batch.is_auto() && settings.preset.is_auto() && settings.pad.is_auto() &&
              settings.rate.is_auto());
  Settings first = parsed({"--batch", "7", "--pad=false", "--warmup", "0.25"});
  const std::string ini = table_of(first).to_ini();
  EXPECT_NE(ini.find("batch = 7\nrate = auto\npreset = auto\npad = false\nwarmup = 25%\n"), std::string::npos)
      << ini;
  Settings second;
  OptionTable table = table_of(second);
  table.parse_ini(ini, "ini");
  EXPECT_EQ(table.to_ini(), ini);
}

TEST(Auto, LimitsHoldForGivenValues) {
  for (const auto& words : std::vector<std::vector<std::string>>{{"--batch", "0"},
                                                                 {"--batch", "many"},
                                                                 {"--batch", "1.5"},
                                                                 {"--rate", "2"},
                                                                 {"--rate", "nan"},
                                                                 {"--preset", "medium"},
                                                                 {"--pad=perhaps"}})
    EXPECT_THROW((void)parsed(words), UsageError) << words[0] << " " << words.back();
}

TEST(StepCount, AShareFollowsTheSteps) {
  EXPECT_EQ(StepCount::from_text("10%").of(125000), 12500);
  EXPECT_EQ(StepCount::from_text("0.1").of(100), 10);
  EXPECT_EQ(StepCount::from_text("30%").of(5), 2);  // 1.5, half up
  EXPECT_EQ(StepCount::from_text("1%").of(1), 0);
  EXPECT_EQ(StepCount::from_text("100%").of(7), 7);
  EXPECT_EQ(StepCount::from_text("12500").of(100), 12500);
  EXPECT_EQ(StepCount::from_text("0").of(100), 0);
  EXPECT_EQ(StepCount::from_text("1").of(100), 1);
  for (const char* text : {"10%", "0%", "33.3333%", "12500", "0"})
    EXPECT_EQ(StepCount::from_text(text).text(), text);
  EXPECT_EQ(StepCount::from_text("0.5%").text(), "0.5%");
}

TEST(StepCount, WhatIsNeitherIsRefused) {
  for (const char* text : {"", "%", "ten", "-1", "-5%", "101%", "1.5", "1e10", "10 %", "nan", "inf%"})
    EXPECT_THROW((void)StepCount::from_text(text), std::invalid_argument) << text;
  EXPECT_THROW((void)parsed({"--warmup", "110%"}), UsageError);
}

}  // namespace
}  // namespace dino
