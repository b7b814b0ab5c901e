// SPDX-License-Identifier: Apache-2.0
// A step depends on the global batch, not on how it is split over ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "batch_part.hpp"
#include "host_model.hpp"
#include "training/engine.hpp"

namespace dino {
namespace {

using testing::BatchPart;
using testing::drop_path_of;

constexpr double kLoss = 1e-5, kGradient = 3e-5;

TrainingConfig small_config() {
  TrainingConfig config;
  config.vit.patch = 8;
  config.vit.width = 64;
  config.vit.depth = 2;
  config.vit.heads = 2;
  config.vit.hidden = 128;
  config.vit.position_grid = 4;
  config.vit.layerscale = 0.5;
  config.objective.dino_head = {64, 48, 3, 32, 96};
  config.objective.ibot_head = {64, 40, 2, 24, 80};
  config.optimizer.layer_decay = 0.9;
  config.local_crops = 3;
  return config;
}

double relative(double a, double b) {
  return std::abs(a - b) / std::max(std::abs(b), 1e-12);
}

ParameterStore whole_of(const ShardedValues& values) {
  HostStream stream;
  ParameterStore whole(values.layout());
  values.gather(stream, whole);
  return whole;
}

/// Largest |a - b| over the largest |b| of each parameter; key biases (whose true gradient is 0) against the
/// whole bias.
void expect_same_gradients(Engine& a, Engine& b) {
  const ParameterStore of_a = whole_of(a.state().gradient_values());
  const ParameterStore of_b = whole_of(b.state().gradient_values());
  for (const ParameterInfo& info : a.layout().parameters()) {
    const std::span<const float> x = of_a.view(info).f32(), y = of_b.view(info).f32();
    double difference = 0, scale = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      difference = std::max(difference, static_cast<double>(std::abs(x[i] - y[i])));
      scale = std::max(scale, static_cast<double>(std::abs(y[i])));
    }
    EXPECT_LE(difference, kGradient * scale + 1e-9) << info.name;
  }
}

/// Adam turns the rounding of a gradient near zero into a step of up to lr: few elements may differ.
void expect_same_weights(const ShardedValues& a, const ShardedValues& b, double tolerance) {
  const ParameterStore of_a = whole_of(a), of_b = whole_of(b);
  int64_t different = 0, total = 0;
  for (const ParameterInfo& info : a.layout().parameters()) {
    if (info.name.ends_with("qkv.bias")) continue;
    const std::span<const float> x = of_a.view(info).f32(), y = of_b.view(info).f32();
    for (size_t i = 0; i < x.size(); ++i) different += std::abs(x[i] - y[i]) > tolerance ? 1 : 0;
    total += static_cast<int64_t>(x.size());
  }
  EXPECT_LE(static_cast<double>(different), 1e-3 * static_cast<double>(total));
}

void expect_same_result(const StepResult& a, const StepResult& b) {
  EXPECT_LE(relative(a.losses.total, b.losses.total), kLoss);
  EXPECT_LE(relative(a.losses.dino_local, b.losses.dino_local), kLoss);
  EXPECT_LE(relative(a.losses.dino_global, b.losses.dino_global), kLoss);
  EXPECT_LE(relative(a.losses.ibot, b.losses.ibot), kLoss);
  EXPECT_LE(relative(a.losses.koleo, b.losses.koleo), kLoss);
  for (size_t i = 0; i < 3; ++i) EXPECT_LE(relative(a.grad_norms[i], b.grad_norms[i]), 10 * kLoss) << i;
  EXPECT_LE(relative(a.health.teacher_entropy, b.health.teacher_entropy), kLoss);
  EXPECT_NEAR(a.health.information, b.health.information, 1e-5);
  EXPECT_NEAR(a.health.kl, b.health.kl, 1e-4);
  EXPECT_EQ(a.health.prototype_usage, b.health.prototype_usage);
  EXPECT_LE(relative(a.health.feature_std, b.health.feature_std), 1e-5);
  EXPECT_LE(relative(a.health.effective_rank, b.health.effective_rank), 1e-3);
  EXPECT_EQ(a.finite, b.finite);
}

/// Steps with this communicator's split against the same steps in one process.
void compare(const TrainingConfig& config, bool few_masks = false, int64_t images = 0, int64_t frozen = 0) {
  const Communicator world = Communicator::world();
  const Communicator self = Communicator::self();
  const int64_t total = images > 0 ? images : world.size() == 3 ? 12 : 8;
  const Range own = even_range(total, world.rank(), world.size());
  HostModel split(config, world), whole(config, self);
  split.initialize(3);
  whole.initialize(3);
  for (uint64_t step = 0; step < 3; ++step) {
    const BatchPart part(config, total, own.begin, own.size(), step, few_masks);
    const BatchPart all(config, total, 0, total, step, few_masks);
    const bool freeze = static_cast<int64_t>(step) < frozen;
    const StepSchedule schedule{1e-3, step == 0 ? 0.0 : 1e-3, 0.04, 0.99, 0.05, freeze, frozen};
    const StepResult a = split.forward_backward(part.batch, schedule, drop_path_of(config, total, own, step));
    const StepResult b =
        whole.forward_backward(all.batch, schedule, drop_path_of(config, total, {0, total}, step));
    EXPECT_TRUE(a.finite);
    if (step == 0) {
      expect_same_result(a, b);
      expect_same_gradients(split, whole);
    } else {
      EXPECT_LE(relative(a.losses.total, b.losses.total), 1e-4);
    }
    split.update(schedule, static_cast<int64_t>(step) + 1);
    whole.update(schedule, static_cast<int64_t>(step) + 1);
    expect_same_weights(split.state().student_values(), whole.state().student_values(),
                        step == 0 ? 2e-5 : 1e-4);
    expect_same_weights(split.state().teacher_values(), whole.state().teacher_values(), 2e-5);
  }
  const auto centres_a = split.objective_state(), centres_b = whole.objective_state();
  ASSERT_EQ(centres_a.size(), centres_b.size());
  for (const auto& [name, values] : centres_a)
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], centres_b.at(name)[i], 1e-4) << name;
}

TEST(SslWorldSize, Sinkhorn) {
  compare(small_config());
}

TEST(SslWorldSize, FrozenBackbone) {
  compare(small_config(), false, 0, 2);
}

TEST(SslWorldSize, SoftmaxCentring) {
  TrainingConfig config = small_config();
  config.objective.centering = Centering::softmax;
  compare(config);
}

TEST(SslWorldSize, SharedHeadRegistersSwiglu) {
  TrainingConfig config = small_config();
  config.objective.separate_ibot_head = false;
  config.vit.registers = 2;
  config.vit.ffn = FfnKind::swiglu;
  config.vit.hidden = swiglu_hidden(config.vit.width);
  compare(config);
}

TEST(SslWorldSize, RanksWithoutMaskedPatches) {
  compare(small_config(), true);
}

TEST(SslWorldSize, RanksWithDifferentNumbersOfImages) {
  compare(small_config(), false, 7);
  TrainingConfig config = small_config();
  config.objective.centering = Centering::softmax;
  compare(config, false, 5);
}

TEST(SslWorldSize, WithoutLocalCrops) {
  TrainingConfig config = small_config();
  config.local_crops = 0;
  compare(config);
}

/// Ranks that share a stratum of images, ranks of whole ones, and ranks of different sizes.
TEST(SslWorldSize, StochasticDepth) {
  TrainingConfig config = small_config();
  config.vit.drop_path = 0.3;
  const Communicator world = Communicator::world();
  for (const int64_t images : {int64_t{0}, int64_t{8} * world.size(), int64_t{13}})
    compare(config, images == 13, images);
  config.vit.drop_path = 0.5;
  config.vit.drop_path_uniform = false;
  config.vit.ffn = FfnKind::swiglu;
  config.vit.hidden = swiglu_hidden(config.vit.width);
  config.local_crops = 0;
  compare(config, false, 9);
}

/// One image a rank and few rows kept: of some branches a rank has none.
TEST(SslWorldSize, RanksWithoutRowsOfABranch) {
  const Communicator world = Communicator::world();
  for (const FfnKind ffn : {FfnKind::mlp, FfnKind::swiglu}) {
    TrainingConfig config = small_config();
    config.vit.ffn = ffn;
    config.vit.drop_path = 0.95;
    config.objective.koleo_weight =
        0;  // images of which no branch keeps a row have equal class tokens: no nearest one
    const int64_t total = std::max(world.size(), 2);
    bool without = false;
    const auto kept_of = [&](int rank, uint64_t step) {
      const Range images = even_range(total, rank, world.size());
      return drop_path_of(config, total, images, step)({0, images.size()}).kept;
    };
    for (uint64_t step = 0; step < 3; ++step)
      for (int rank = 0; rank < world.size(); ++rank)
        for (const auto& block : kept_of(rank, step))
          for (const auto& branch : block)
            without = without || (branch[0].rows.empty() && branch[1].rows.empty());
    EXPECT_EQ(without, world.size() > 1);
    compare(config, false, total);
  }
}

TEST(SslRanks, StayBitIdenticalAndRepeatable) {
  const Communicator world = Communicator::world();
  const TrainingConfig config = small_config();
  std::vector<float> first;
  for (int repeat = 0; repeat < 2; ++repeat) {
    HostModel model(config, world);
    model.initialize(9);
    for (uint64_t step = 0; step < 2; ++step) {
      const BatchPart data(config, 2 * world.size(), 2 * world.rank(), 2, step, false);
      const StepSchedule schedule{1e-3, 1e-3, 0.04, 0.99, 0.05};
      (void)model.forward_backward(data.batch, schedule, {});
      model.update(schedule, static_cast<int64_t>(step) + 1);
    }
    std::vector<float> weights;
    for (size_t unit = 0; unit < model.layout().units().size(); ++unit) {
      const std::span<const float> values =
          model.state().student_values().unit(static_cast<int64_t>(unit)).f32();
      weights.insert(weights.end(), values.begin(), values.end());
    }
    if (repeat == 0) first = weights;
    EXPECT_EQ(std::memcmp(first.data(), weights.data(), weights.size() * sizeof(float)), 0);
  }
  const std::vector<float> all = world.all_gather_values<float>(first);
  for (int rank = 0; rank < world.size(); ++rank)
    EXPECT_EQ(std::memcmp(all.data() + static_cast<size_t>(rank) * first.size(), first.data(),
                          first.size() * sizeof(float)),
              0)
        << rank;
}

TEST(SslRanks, AgreeThatAStepIsNotFinite) {
  const Communicator world = Communicator::world();
  const TrainingConfig config = small_config();
  HostModel model(config, world);
  model.initialize(1);
  BatchPart data(config, 2 * world.size(), 2 * world.rank(), 2, 0, false);
  if (world.rank() == world.size() - 1) data.global.as<float>()[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(model.forward_backward(data.batch, {}, {}).finite);
}

TEST(SslRanks, ARankWithoutImagesIsRefusedEverywhere) {
  const Communicator world = Communicator::world();
  const TrainingConfig config = small_config();
  HostModel model(config, world);
  model.initialize(1);
  BatchPart data(config, 8, 0, 2, 0, false);
  if (world.root()) data.batch.images = 0;
  EXPECT_THROW((void)model.forward_backward(data.batch, {}, {}), InternalError);
}

}  // namespace
}  // namespace dino
