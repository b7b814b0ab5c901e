// SPDX-License-Identifier: Apache-2.0
// Verdicts on runs that collapse and on runs whose numbers a small batch caps.
#include "training/collapse.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <limits>

#include "base/random.hpp"
#include "host_place.hpp"
#include "model/temporary_folder.hpp"
#include "training/health.hpp"

namespace dino {
namespace {

using Level = CollapseVerdict::Level;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// `steps` steps whose values go from the first to the second number in a straight line.
struct Log {
  int64_t batch = 16, prototypes = 128, width = 64;
  std::array<double, 2> information{0.5, 1.5}, entropy{4, 3}, usage{0.2, 0.2}, rank{4, 8};
  int64_t steps = 200, every = 1;
  double warmup = 20;

  [[nodiscard]] HealthHistory history() const {
    HealthHistory h;
    for (int64_t step = every; step <= steps; step += every) {
      const double t =
          static_cast<double>(step - every) / static_cast<double>(std::max<int64_t>(steps - every, 1));
      const auto at = [&](const std::array<double, 2>& ends) { return ends[0] + (ends[1] - ends[0]) * t; };
      h.step.push_back(static_cast<double>(step));
      h.information.push_back(at(information));
      h.teacher_entropy.push_back(at(entropy));
      h.prototype_usage.push_back(at(usage));
      h.effective_rank.push_back(at(rank));
    }
    h.batch = batch;
    h.prototypes = prototypes;
    h.width = width;
    h.warmup = warmup;
    return h;
  }
  [[nodiscard]] CollapseVerdict verdict() const { return judge_collapse(history()); }
};

TEST(HealthLimits, AreWhatABatchCanReach) {
  EXPECT_DOUBLE_EQ(health_limits(16, 128, 64).prototype_usage, 0.25);
  EXPECT_DOUBLE_EQ(health_limits(16, 128, 64).information, std::log(32.0));
  EXPECT_DOUBLE_EQ(health_limits(16, 128, 64).effective_rank, 16);
  EXPECT_DOUBLE_EQ(health_limits(1024, 128, 64).prototype_usage, 1);
  EXPECT_DOUBLE_EQ(health_limits(1024, 128, 64).information, std::log(128.0));
  EXPECT_DOUBLE_EQ(health_limits(1024, 128, 64).effective_rank, 64);
  EXPECT_DOUBLE_EQ(health_limits(1024, 65536, 384).effective_rank, kRankRows);
  EXPECT_TRUE(std::isnan(health_limits(0, 128, 0).prototype_usage));
  EXPECT_DOUBLE_EQ(health_limits(0, 128, 0).information, std::log(128.0));
  EXPECT_TRUE(std::isnan(health_limits(0, 0, 0).information));
}

/// Usage as low as the batch makes it, and lower, and falling, is no collapse; nor is it the proof of health.
TEST(Collapse, NeverFollowsFromUsage) {
  for (const auto& [batch, prototypes] :
       {std::pair<int64_t, int64_t>{16, 128}, {2, 65536}, {4, 131072}, {64, 1024}, {512, 64}, {2048, 16}}) {
    const double cap = health_limits(batch, prototypes, 64).prototype_usage;
    for (const auto& usage : {std::array{cap, cap}, {cap, 0.8 * cap}, {cap, 0.3 * cap}, {0.0, 0.0}}) {
      Log run;
      run.batch = batch;
      run.prototypes = prototypes;
      run.usage = usage;
      const double most = health_limits(batch, prototypes, 64).information;
      const double rank = health_limits(batch, prototypes, 64).effective_rank;
      run.information = {0.3 * most, 0.5 * most};
      run.rank = {1 + 0.3 * (rank - 1), 1 + 0.5 * (rank - 1)};
      EXPECT_EQ(run.verdict().title, "No sign of collapse") << batch << " " << prototypes;
      run.information = {0.5 * most, 0.4 * most};  // and a small drop of information is none
      EXPECT_EQ(run.verdict().level, Level::good) << batch << " " << prototypes;
      run.information = {0.5 * most, 0.0};
      run.usage = {0.5 * cap, cap};
      EXPECT_EQ(run.verdict().level, Level::problem) << batch << " " << prototypes;
    }
  }
}

TEST(Collapse, TheWordsHoldUsageAgainstWhatTheBatchCanReach) {
  const CollapseVerdict verdict = Log{}.verdict();
  EXPECT_NE(verdict.why.find("where its 32 rows can reach 25 %"), std::string::npos) << verdict.why;
  EXPECT_NE(verdict.why.find("of at most 3.466"), std::string::npos) << verdict.why;
  EXPECT_NE(verdict.why.find("of at most 16"), std::string::npos) << verdict.why;
  Log large;
  large.batch = 1024;
  EXPECT_EQ(large.verdict().why.find("can reach"), std::string::npos) << "nothing is capped there";
}

TEST(Collapse, TrueOnesAreCaughtAndNamed) {
  for (const auto& [batch, prototypes] : {std::pair<int64_t, int64_t>{4, 65536}, {16, 128}, {1024, 512}}) {
    const double uniform = std::log(static_cast<double>(prototypes));
    Log run;
    run.batch = batch;
    run.prototypes = prototypes;
    run.rank = {2, 2};
    for (const double start : {0.0, 1.0}) {  // from the beginning, or after a good start
      run.information = {start, start > 0 ? -0.1 : 0.0};
      run.entropy = {uniform, uniform};
      EXPECT_EQ(run.verdict().level, Level::problem);
      EXPECT_NE(run.verdict().why.find("uniform"), std::string::npos) << run.verdict().why;
      run.entropy = {0, 0};
      EXPECT_NE(run.verdict().why.find("the same prototype"), std::string::npos) << run.verdict().why;
      run.entropy = {0.5 * uniform, 0.5 * uniform};
      EXPECT_NE(run.verdict().why.find("the same for every image"), std::string::npos) << run.verdict().why;
    }
  }
  Log constant;  // features, while the numbers of the targets still look well
  constant.rank = {6, 1};
  constant.steps = 1000;
  EXPECT_EQ(constant.verdict().level, Level::problem);
  EXPECT_NE(constant.verdict().why.find("nearly the same"), std::string::npos);
  Log both;
  both.information = {2.4, 0.8};
  both.rank = {9, 3};
  EXPECT_EQ(both.verdict().level, Level::problem);
  both.rank = {9, 9};  // a hotter teacher alone may do that
  EXPECT_EQ(both.verdict().level, Level::attention);
  both.information = {2.4, 0.1};  // but not this
  EXPECT_EQ(both.verdict().level, Level::problem);
  both.information = {2.4, 0.8};
  both.rank = {kNan, kNan};
  EXPECT_EQ(both.verdict().level, Level::problem);
}

/// With the published LayerScale a network is constant until it has been trained a little.
TEST(Collapse, FewStepsAreNotJudged) {
  Log run;
  run.information = {0, 0};
  run.rank = {1, 1};
  run.steps = 20;
  EXPECT_EQ(run.verdict().title, "Too early to judge collapse");
  run.steps = 1;
  EXPECT_EQ(run.verdict().level, Level::attention);
  run.steps = 4000;
  run.warmup = 5000;
  run.every = 10;
  EXPECT_EQ(run.verdict().level, Level::attention);
  run.warmup = 1000;
  EXPECT_EQ(run.verdict().level, Level::problem);
  run.information = {0.001, 0.05};
  run.rank = {1, 3};
  EXPECT_EQ(run.verdict().level, Level::attention) << "it is rising";
  run.information = {0.0, 0.004};  // 150 steps from LayerScale 1e-5
  run.rank = {1.4, 8.2};
  EXPECT_EQ(run.verdict().level, Level::attention);
  run.information = {0.0, 1e-5};
  EXPECT_EQ(run.verdict().level, Level::problem);
  run = {};
  run.steps = 3;
  EXPECT_EQ(run.verdict().level, Level::good);
}

TEST(Collapse, WhatALogLacksIsNotJudged) {
  Log run;
  run.batch = 1;  // nothing can be told apart
  run.information = {0, 0};
  EXPECT_EQ(run.verdict().title, "Collapse cannot be judged");
  EXPECT_EQ(judge_collapse({}).title, "Collapse cannot be judged");
  HealthHistory history = Log{}.history();
  history.information.clear();
  history.batch = history.prototypes = history.width = 0;
  history.prototype_usage.assign(history.step.size(), kNan);
  const CollapseVerdict verdict = judge_collapse(history);
  EXPECT_EQ(verdict.level, Level::good);
  EXPECT_EQ(verdict.why.find("nan"), std::string::npos) << verdict.why;
}

TEST(Collapse, ReadsTheLogUpToAStep) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/metrics.jsonl";
  std::ofstream(path)
      << "{\"event\":\"start\",\"step\":0,\"batch\":8,\"prototypes\":64,\"width\":48,\"warmup\":7}\n"
         "{\"step\":1,\"information\":0.5,\"effective_rank\":2.5}\nnot json\n"
         "{\"event\":\"knn\",\"step\":1,\"accuracy\":0.5,\"n\":20,\"information\":9}\n"
         "{\"step\":2,\"information\":null,\"teacher_entropy\":3}\n"
         "{\"step\":3,\"information\":0.75}\n{\"step\":4,\"inf";
  HealthHistory history = read_health_history(path, 3);
  EXPECT_EQ(history.step, (std::vector<double>{1, 2, 3}));
  EXPECT_EQ(history.information[2], 0.75);
  EXPECT_TRUE(std::isnan(history.information[1]));
  EXPECT_TRUE(history.prototype_usage.empty());
  EXPECT_EQ(history.batch, 8);
  EXPECT_EQ(history.prototypes, 64);
  EXPECT_EQ(history.width, 48);
  EXPECT_EQ(history.warmup, 7);
  EXPECT_EQ(history.knn_step, std::vector<double>{1});
  EXPECT_EQ(history.knn_accuracy, std::vector<double>{0.5});
  EXPECT_EQ(history.knn_images, std::vector<double>{20});
  EXPECT_TRUE(read_health_history(path, 0).knn_step.empty());
  EXPECT_EQ(read_health_history(path, 2).step.size(), 2U);
  EXPECT_TRUE(read_health_history(folder.path() + "/none", 2).step.empty());
}

/// A course in which nothing else is wrong, with these k-NN accuracies at steps 0, 100, 200...
CollapseVerdict with_downstream(const std::vector<double>& accuracy, double images) {
  HealthHistory history = Log{}.history();
  for (const double a : accuracy) {
    history.knn_step.push_back(100 * static_cast<double>(history.knn_step.size()));
    history.knn_accuracy.push_back(a);
    history.knn_images.push_back(images);
  }
  return judge_collapse(history);
}

TEST(Collapse, TellsWhereDownstreamPeaked) {
  const CollapseVerdict fallen = with_downstream({0.1, 0.5, 0.62, 0.6, 0.4}, 500);
  EXPECT_EQ(fallen.level, Level::attention);
  EXPECT_EQ(fallen.title, "Downstream peaked at step 200");
  EXPECT_NE(fallen.why.find("62.0 % then, and 40.0 % at step 400"), std::string::npos) << fallen.why;
  // A network that learns what its random beginning knew better.
  EXPECT_EQ(with_downstream({0.5, 0.3}, 500).title, "Downstream peaked at step 0");
  // Two standard errors of a difference of so few images are some 0.14.
  EXPECT_EQ(with_downstream({0.1, 0.55, 0.5}, 100).level, Level::good);
  EXPECT_EQ(with_downstream({0.1, 0.55, 0.5}, 10000).level, Level::attention);
  EXPECT_EQ(with_downstream({0.1, 0.5, 0.6}, 500).level, Level::good);
  EXPECT_EQ(with_downstream({0.6}, 500).level, Level::good);
  // A collapse stays one, and tells of the peak too.
  Log log;
  log.information = {1.5, 0.0};
  log.rank = {8, 1.0};
  HealthHistory history = log.history();
  history.knn_step = {100, 200};
  history.knn_accuracy = {0.6, 0.1};
  history.knn_images = {500, 500};
  const CollapseVerdict collapse = judge_collapse(history);
  EXPECT_EQ(collapse.level, Level::problem);
  EXPECT_NE(collapse.why.find("Downstream peaked at step 100"), std::string::npos) << collapse.why;
}

/// From targets and features themselves: a batch of two images and 65,536 prototypes.
TEST(Collapse, OfTargetsThemselves) {
  const int64_t rows = 4, k = 65536;
  Tensor targets(Shape{rows, k}), features(Shape{rows / 2, 32});
  const auto judge = [&] {
    HostPlace host;
    Tensor entropy(Shape{1}, DType::f64), of_mean(Shape{2}, DType::f64);
    target_health(host.c, targets, rows, entropy, of_mean);
    const double mean_entropy = entropy.as<double>()[0] / static_cast<double>(rows);
    const TensorView products = spaced_products(host.c, features);
    HealthHistory h;
    h.step = {100};
    h.information = {of_mean.as<double>()[0] - mean_entropy};
    h.teacher_entropy = {mean_entropy};
    h.prototype_usage = {of_mean.as<double>()[1]};
    h.effective_rank = {effective_rank(products.f32(), products.dim(0))};
    h.batch = rows / 2;
    h.prototypes = k;
    h.width = 32;
    return judge_collapse(h);
  };
  Random random(3, RandomStream::test, 1);
  const auto one_per_image = [&] {
    std::ranges::fill(targets.f32(), 0.0F);
    for (int64_t r = 0; r < rows; ++r) targets.as<float>()[r * k + 7 * (r % 2)] = 1.0F;
  };
  const auto drawn = [&] {
    for (float& value : features.f32()) value = static_cast<float>(random.normal() / std::sqrt(32.0));
  };
  one_per_image();
  drawn();
  EXPECT_EQ(judge().level, Level::good) << "2 of 65,536 prototypes are all that two images need";
  for (float& value : features.f32()) value = static_cast<float>(1 / std::sqrt(32.0));
  EXPECT_EQ(judge().level, Level::problem) << "constant features";
  drawn();
  for (float& value : targets.f32()) value = 1.0F / static_cast<float>(k);
  EXPECT_EQ(judge().level, Level::problem) << "uniform targets";
  std::ranges::fill(targets.f32(), 0.0F);
  for (int64_t r = 0; r < rows; ++r) targets.as<float>()[r * k + 5] = 1.0F;
  EXPECT_EQ(judge().level, Level::problem) << "one prototype";
}

}  // namespace
}  // namespace dino
