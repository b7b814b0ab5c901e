// SPDX-License-Identifier: Apache-2.0
#include "auto_settings.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/version.hpp"
#include "resources.hpp"
#include "survey.hpp"
#include "timed_steps.hpp"

namespace dino::pretrain {
namespace {

constexpr int64_t kGibi = int64_t{1} << 30;

std::vector<ImageFacts> all_images() {
  std::vector<ImageFacts> all;
  for (const int64_t count : {1, 3, 37, 500, 12'000, 300'000, 2'000'000})
    for (const auto& [shorter, longer] : std::vector<std::pair<int64_t, int64_t>>{{1, 1},
                                                                                  {16, 16},
                                                                                  {28, 28},
                                                                                  {40, 48},
                                                                                  {64, 96},
                                                                                  {200, 300},
                                                                                  {480, 640},
                                                                                  {3000, 4000},
                                                                                  {50, 9000},
                                                                                  {0, 0}})
      all.push_back({count, shorter, longer});
  return all;
}

std::vector<MachineFacts> all_machines() {
  return {{1, 1, kGibi, 4},       {1, 2, 16 * kGibi, 50},    {2, 2, 8 * kGibi, 35},
          {3, 24, 4 * kGibi, 20}, {8, 512, 200 * kGibi, 50}, {1024, 32768, 64 * kGibi, 50}};
}

struct Parsed {
  TrainConfig config;
  OptionTable table;
  explicit Parsed(const std::vector<std::string>& words) {
    table.bind(train_options(), config);
    std::vector<std::string> all{"--data", "photos"};
    all.insert(all.end(), words.begin(), words.end());
    table.parse(all);
  }
};

/// What train does with the facts, with a step that takes `step_seconds`.
void settle_all(TrainConfig& config, const ImageFacts& images, const MachineFacts& machine,
                double step_seconds = 0.7) {
  choose_settings(config, images, machine);
  choose_steps(config, images, step_seconds);
  validate(config);
  complete(config);
  for_each_auto(config, [](const char* name, const auto& field) { EXPECT_FALSE(field.is_auto()) << name; });
}

std::string describe(const ImageFacts& images, const MachineFacts& machine) {
  return std::to_string(images.count) + " images of " + std::to_string(images.short_side) + ", " +
         std::to_string(machine.ranks) + " ranks, " + std::to_string(machine.cores) + " cores";
}

/// On every `step`-th pair of facts, from the `first` one on.
template <class Check>
void on_facts(const std::vector<std::string>& words, size_t first, size_t step, Check check) {
  size_t pair = 0;
  for (const ImageFacts& images : all_images())
    for (const MachineFacts& machine : all_machines()) {
      if (pair++ % step != first) continue;
      SCOPED_TRACE(describe(images, machine));
      Parsed parsed(words);
      ASSERT_NO_THROW(settle_all(parsed.config, images, machine));
      check(parsed.config, images, machine);
    }
}

template <class Check>
void on_all_facts(const std::vector<std::string>& words, Check check) {
  on_facts(words, 0, 1, check);
}

TEST(AutoSettings, EveryCollectionAndMachineGetsARunThatIsValid) {
  on_all_facts({}, [](const TrainConfig& c, const ImageFacts& images, const MachineFacts& machine) {
    EXPECT_EQ(c.global_size % c.patch, 0);
    EXPECT_EQ(c.local_size % c.patch, 0);
    EXPECT_LE(c.global_size, 224);
    EXPECT_LE(c.local_size, c.global_size);
    EXPECT_GE(c.batch, machine.ranks);
    EXPECT_GE(c.steps, kLeastSteps);
    EXPECT_LE(c.warmup.of(c.steps) + 1, c.steps);
    EXPECT_TRUE(c.max_side == 0 || (c.max_side < images.long_side && c.max_side == 3 * c.global_size));
    EXPECT_EQ(c.augment.global_size, c.global_size);
    EXPECT_EQ(c.augment.blur, c.blur.value());
  });
}

TEST(AutoSettings, EveryPresetRunsOnItsOwnDefaults) {
  for (const std::string& preset : vit_preset_names()) {
    SCOPED_TRACE(preset);
    on_all_facts({"--preset", preset, "--steps", "1"},
                 [&](const TrainConfig& c, const ImageFacts&, const MachineFacts&) {
                   EXPECT_EQ(c.preset.value(), preset);
                   EXPECT_EQ(c.patch, vit_preset(preset).patch);
                   EXPECT_EQ(c.steps, 1);
                 });
    TrainConfig published;
    published.preset = preset;
    published.steps = 1;
    choose_published(published);
    EXPECT_NO_THROW(validate(published));
  }
}

TEST(AutoSettings, EverySettingCanBeGivenAloneAndConstrainsTheRest) {
  const std::vector<std::vector<std::string>> given = {
      {"--steps", "1"},         {"--steps", "100"},          {"--steps", "1000000"},
      {"--patch", "8"},         {"--patch", "14"},           {"--patch", "0"},
      {"--global-size", "224"}, {"--global-size", "96"},     {"--global-size", "100"},
      {"--global-size", "98"},  {"--local-size", "48"},      {"--local-size", "98"},
      {"--local-count", "0"},   {"--batch", "2048"},         {"--prototypes", "65536"},
      {"--bottleneck", "32"},   {"--head-hidden", "64"},     {"--lr", "0.001"},
      {"--blur", "reference"},  {"--max-side", "0"},         {"--drop-path", "0.4"},
      {"--layerscale", "0"},    {"--momentum", "0.9"},       {"--warmup", "0"},
      {"--warmup", "100%"},     {"--minutes", "0.1"},        {"--minutes", "10000"},
      {"--cache-gib", "0"},     {"--checkpoint-every", "7"}, {"--teacher-temperature", "0.07"}};
  // Each with a fifth of the facts, all of which are met.
  constexpr size_t kStep = 5;
  for (size_t i = 0; i < given.size(); ++i) {
    const std::vector<std::string>& words = given[i];
    SCOPED_TRACE(words[0] + " " + words[1]);
    on_facts(words, i % kStep, kStep, [&](TrainConfig& c, const ImageFacts&, const MachineFacts&) {
      for_each_auto(c, [&](const std::string& name, const auto& field) {
        if ("--" + name == words[0] && words[1] != "0") {
          EXPECT_EQ(field.text(), words[1]);
        }
      });
      if (words[0] == "--patch" && words[1] == "8") {
        EXPECT_EQ(c.global_size % 8, 0);
        EXPECT_EQ(c.local_size % 8, 0);
      }
    });
  }
}

TEST(AutoSettings, ContradictionsThatWereGivenAreSaid) {
  const ImageFacts images{500, 480, 640};
  const MachineFacts machine{1, 2, 16 * kGibi, 50};
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"--patch", "8", "--global-size", "100"},
                                             {"--preset", "vits14", "--local-size", "96"},
                                             {"--steps", "100", "--warmup", "101"}}) {
    Parsed parsed(words);
    EXPECT_THROW(settle_all(parsed.config, images, machine), UsageError) << words[0];
  }
}

TEST(AutoSettings, TheSameFactsGiveTheSameSettingsWhateverAStepTakes) {
  for (const ImageFacts& images : all_images()) {
    Parsed fast({}), slow({});
    const MachineFacts machine{2, 16, 32 * kGibi, 35};
    settle_all(fast.config, images, machine, 0.001);
    settle_all(slow.config, images, machine, 50);
    EXPECT_GE(fast.config.steps, slow.config.steps);
    slow.config.steps = fast.config.steps.value();
    slow.config.checkpoint_every = fast.config.checkpoint_every.value();
    EXPECT_EQ(fast.table.to_ini(), slow.table.to_ini());
  }
}

TEST(AutoSettings, MoreMachineOrTimeIsNeverForASmallerModel) {
  const auto flops = [](const TrainConfig& c) {
    return flops_per_image(make_training_config(c), c.global_size, c.local_size);
  };
  for (const int64_t count : {500, 50'000, 2'000'000}) {
    double before = 0;
    for (const int64_t cores : {1, 2, 8, 32, 128, 2048, 100'000}) {
      Parsed parsed({});
      settle_all(parsed.config, {count, 480, 640}, {1, cores, 500 * kGibi, 50});
      EXPECT_GE(flops(parsed.config), before * 0.999) << count << " images, " << cores << " cores";
      before = flops(parsed.config);
    }
    Parsed hour({}), day({"--minutes", "1440"});
    settle_all(hour.config, {count, 480, 640}, {1, 8, 64 * kGibi, 50});
    settle_all(day.config, {count, 480, 640}, {1, 8, 64 * kGibi, 50});
    EXPECT_GE(flops(day.config), flops(hour.config));
  }
}

TEST(AutoSettings, TheBatchShrinksUntilTheModelFits) {
  int64_t before = 0;
  for (const int64_t gibi : {2, 4, 8, 16, 64, 256}) {
    Parsed parsed({"--preset", "vits14", "--steps", "100"});
    const MachineFacts machine{1, 64, gibi * kGibi, 50};
    settle_all(parsed.config, {100'000, 480, 640}, machine);
    EXPECT_GE(parsed.config.batch, before) << gibi;
    before = parsed.config.batch;
    if (gibi >= 8) {
      EXPECT_LE(plan_memory(parsed.config, {}, 1, 1).total(), machine.memory) << gibi;
    }
  }
}

TEST(AutoSettings, StepsFollowTheTimeAndThePasses) {
  const auto steps = [](double seconds, int64_t count) {
    TrainConfig config;
    config.batch = 64;
    choose_steps(config, {count, 480, 640}, seconds);
    return config.steps.value();
  };
  EXPECT_EQ(steps(1, 1'000'000), 1800);
  EXPECT_EQ(steps(1.3, 1'000'000), 1300);   // 1384, two digits
  EXPECT_EQ(steps(1e-3, 500), 1500);        // 200 passes are 1562
  EXPECT_EQ(steps(100, 500), kLeastSteps);  // 18 would teach nothing
}

TEST(AutoSettings, SharesAreThePublishedRatios) {
  TrainConfig config;
  config.steps = 125'000;
  config.batch = 1024;
  choose_published(config);
  EXPECT_EQ(config.warmup.of(config.steps), 12'500);
  EXPECT_EQ(config.freeze_last_layer.of(config.steps), 1'250);
  EXPECT_EQ(config.teacher_temperature_warmup.of(config.steps), 37'500);
  const Schedules schedules(config);
  EXPECT_DOUBLE_EQ(schedules.at(12'499, 0).lr, 4e-3);
  EXPECT_EQ(schedules.at(1'249, 0).last_layer_lr, 0);
  EXPECT_GT(schedules.at(1'250, 0).last_layer_lr, 0);
  EXPECT_DOUBLE_EQ(schedules.at(37'500, 0).teacher_temperature, 0.07);
  EXPECT_DOUBLE_EQ(config.layerscale, 1e-5);
}

/// Every training recipe that comes with the programs, and its number of steps overridden.
TEST(Recipes, AreValidWithAnyNumberOfSteps) {
  int recipes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(share_dir() + "/recipes")) {
    std::ifstream file(entry.path());
    std::ostringstream text;
    text << file.rdbuf();
    if (text.str().find("[model]") == std::string::npos) continue;
    ++recipes;
    SCOPED_TRACE(entry.path().filename().string());
    for (const char* steps : {"0", "1", "2", "7", "100", "1000000"}) {
      Parsed parsed({});
      parsed.table.parse_ini(text.str(), entry.path().string());
      EXPECT_TRUE(parsed.config.warmup.is_share() || parsed.config.warmup.of(1) == 0);
      if (std::string(steps) != "0") parsed.config.steps = std::stoll(steps);
      ASSERT_NO_THROW(settle_all(parsed.config, {500, 300, 400}, {1, 2, 16 * kGibi, 50}));
    }
    EXPECT_NE(text.str().find("--config share/recipes/" + entry.path().filename().string() + " --data "),
              std::string::npos)
        << "the head comment holds the command that runs it";
  }
  EXPECT_GE(recipes, 7);
}

struct Case {
  std::vector<std::string> words;
  int64_t batch;
};

/// What choices rest on, against what a run of several steps comes to: masks and stochastic depth differ from
/// step to step.
TEST(Resources, BytesAreThoseOfARun) {
  const Communicator self = Communicator::self();
  for (const Case& one :
       std::vector<Case>{{{"--preset", "vit_demo", "--precision", "fp32"}, 16},
                         {{"--preset", "vit_micro", "--precision", "fp32", "--local-count", "0"}, 24},
                         {{"--preset", "vit_demo", "--prototypes", "8192"}, 8},
                         {{"--preset", "vit_tiny", "--global-size", "64", "--local-size", "32"}, 4},
                         {{"--preset", "vit_demo", "--ffn", "swiglu", "--drop-path", "0.3"}, 16},
                         {{"--preset", "vit_demo", "--recompute", "block"}, 16},
                         {{"--preset", "vit_demo", "--recompute", "selective"}, 16},
                         {{"--preset", "vit_demo", "--accumulate", "4"}, 16}}) {
    Parsed parsed(one.words);
    parsed.config.batch = one.batch;
    settle_all(parsed.config, {500, 64, 64}, {1, 2, 16 * kGibi, 50});
    const Timings timings = time_steps(parsed.config, self, 1, 1);
    const CountedStep planned = planned_step(parsed.config, 1);
    EXPECT_NEAR(static_cast<double>(planned.activations) / static_cast<double>(timings.arena_bytes), 1.0,
                0.002)
        << one.words[1] << " " << one.words[2] << " " << timings.arena_bytes;
    EXPECT_EQ(planned.state.parameters, timings.state.parameters);
    EXPECT_EQ(planned.state.gradients, timings.state.gradients);
    EXPECT_EQ(planned.state.moments, timings.state.moments);
    EXPECT_EQ(planned.state.buffers, timings.state.buffers);
    EXPECT_TRUE(timings.finite);
  }
}

class RunFolder : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& text) const { std::ofstream(folder_ + "/config.ini") << text; }
  const std::string folder_ = testing::TempDir() + "auto_settings_run";
  const Communicator self_ = Communicator::self();
};

TEST_F(RunFolder, ItsSettingsAreTakenForWhatIsNotGiven) {
  Parsed first({});
  settle_all(first.config, {500, 480, 640}, {1, 2, 16 * kGibi, 50});
  write(first.table.to_ini());
  Parsed again({});
  ASSERT_TRUE(take_from_run(again.config, folder_, self_));
  // Another machine and another speed: the same run.
  settle_all(again.config, {500, 480, 640}, {4, 512, 16 * kGibi, 50}, 1e-3);
  EXPECT_EQ(again.table.to_ini(), first.table.to_ini());
  Parsed other({"--batch", "8"});
  ASSERT_TRUE(take_from_run(other.config, folder_, self_));
  EXPECT_EQ(other.config.batch, 8);  // given: that the run has another is for the comparison to say
}

TEST_F(RunFolder, WhatIsBrokenThereIsNamed) {
  Parsed parsed({});
  EXPECT_FALSE(take_from_run(parsed.config, folder_, self_));
  write("[optimisation]\nsteps = many\n");
  try {
    (void)take_from_run(parsed.config, folder_, self_);
    FAIL() << "broken settings were taken";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("config.ini: steps"), std::string::npos) << error.what();
  }
  write("steps\n");
  EXPECT_THROW((void)take_from_run(parsed.config, folder_, self_), UsageError);
}

}  // namespace
}  // namespace dino::pretrain
