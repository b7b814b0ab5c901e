// SPDX-License-Identifier: Apache-2.0
#include "training/engine.hpp"
#include "host_model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "base/random.hpp"

namespace dino {
namespace {

TrainingConfig small_config() {
  TrainingConfig config;
  config.vit.patch = 8;
  config.vit.width = 32;
  config.vit.depth = 1;
  config.vit.heads = 1;
  config.vit.hidden = 64;
  config.vit.position_grid = 2;
  config.vit.layerscale = 0.5;
  config.objective.dino_head = {32, 16, 2, 16, 24};
  config.objective.ibot_head = {32, 16, 2, 16, 20};
  config.local_crops = 2;
  return config;
}

struct Batch {
  Tensor global{Shape{6, 3, 16, 16}}, local{Shape{6, 3, 8, 8}}, masks{Shape{6, 4}, DType::u8};
  StepBatch batch;
  Batch() {
    Random random(1, RandomStream::test, 0);
    for (float& value : global.f32()) value = static_cast<float>(random.normal());
    for (float& value : local.f32()) value = static_cast<float>(random.normal());
    for (const int64_t i : {0, 1, 9, 14}) masks.as<uint8_t>()[i] = 1;
    batch = {3, global, local, masks};
  }
};

std::vector<float> copy(ShardedValues& store, const std::string& name) {
  const std::span<const float> values = store.view(name).f32();
  return {values.begin(), values.end()};
}

class EngineTest : public ::testing::Test {
 protected:
  Communicator self_ = Communicator::self();
  Batch data_;
  StepSchedule schedule_{1e-3, 1e-3, 0.04, 0.9, 0.05};
};

TEST_F(EngineTest, FrozenLastLayerKeepsItsWeightsWhileItsMomentsGoOn) {
  HostModel model(small_config(), self_);
  model.initialize(2);
  schedule_.last_layer_lr = 0;
  const std::string frozen = "dino_head.last_layer.weight_v", moving = "dino_head.mlp.0.weight";
  const auto before = copy(model.state().student_values(), frozen),
             before_moving = copy(model.state().student_values(), moving);
  (void)model.forward_backward(data_.batch, schedule_, {});
  model.update(schedule_, 1);
  EXPECT_EQ(copy(model.state().student_values(), frozen), before);
  EXPECT_NE(copy(model.state().student_values(), moving), before_moving);
  const auto m = copy(model.state().adam_m(), frozen), v = copy(model.state().adam_v(), frozen);
  EXPECT_TRUE(std::any_of(m.begin(), m.end(), [](float x) { return x != 0; }));
  EXPECT_TRUE(std::any_of(v.begin(), v.end(), [](float x) { return x > 0; }));
}

std::vector<float> module_values(ShardedValues& store, const std::string& module) {
  std::vector<float> values;
  for (const ParameterInfo& info : store.layout().parameters()) {
    if (info.module != module) continue;
    const auto part = copy(store, info.name);
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

TEST_F(EngineTest, FrozenBackboneKeepsItsBitsInBothNetworks) {
  HostModel model(small_config(), self_);
  model.initialize(2);
  // A teacher of its own: not even the mean of two networks may touch it.
  for (float& value : model.state().teacher_values().view("backbone.blocks.0.mlp.fc1.weight").f32())
    value *= 1.25F;
  const auto student = module_values(model.state().student_values(), "backbone");
  const auto teacher = module_values(model.state().teacher_values(), "backbone");
  const auto dino = module_values(model.state().student_values(), "dino_head");
  const auto teacher_dino = module_values(model.state().teacher_values(), "dino_head");
  const auto ibot = module_values(model.state().student_values(), "ibot_head");
  schedule_.backbone_frozen = true;
  schedule_.frozen_updates = 2;
  for (int64_t step = 1; step <= 2; ++step) {
    const StepResult result = model.forward_backward(data_.batch, schedule_, {});
    EXPECT_TRUE(result.finite);
    EXPECT_EQ(result.grad_norms[0], 0.0);
    EXPECT_GT(result.grad_norms[1], 0.0);
    EXPECT_GT(result.grad_norms[2], 0.0);
    model.update(schedule_, step);
  }
  EXPECT_EQ(module_values(model.state().student_values(), "backbone"), student);
  EXPECT_EQ(module_values(model.state().teacher_values(), "backbone"), teacher);
  EXPECT_NE(module_values(model.state().student_values(), "dino_head"), dino);
  EXPECT_NE(module_values(model.state().teacher_values(), "dino_head"), teacher_dino);
  EXPECT_NE(module_values(model.state().student_values(), "ibot_head"), ibot);

  // Its first update is AdamW's first, as in a model that only begins here.
  HostModel other(small_config(), self_);
  other.initialize(2);
  HostStream stream;
  other.state().student_values().copy_from(stream, model.state().student_values());
  other.state().teacher_values().copy_from(stream, model.state().teacher_values());
  schedule_.backbone_frozen = false;
  (void)model.forward_backward(data_.batch, schedule_, {});
  model.update(schedule_, 3);
  schedule_.frozen_updates = 0;
  (void)other.forward_backward(data_.batch, schedule_, {});
  other.update(schedule_, 1);
  EXPECT_NE(module_values(model.state().student_values(), "backbone"), student);
  EXPECT_NE(module_values(model.state().teacher_values(), "backbone"), teacher);
  EXPECT_EQ(module_values(model.state().student_values(), "backbone"),
            module_values(other.state().student_values(), "backbone"));
}

TEST_F(EngineTest, ClipsEachModuleToItsNorm) {
  TrainingConfig config = small_config();
  config.optimizer.clip = 0.01;
  HostModel model(config, self_);
  model.initialize(2);
  const StepResult result = model.forward_backward(data_.batch, schedule_, {});
  for (const double norm : result.grad_norms) EXPECT_GT(norm, config.optimizer.clip);
  const std::string name = "ibot_head.mlp.0.weight";
  const auto gradient = copy(model.state().gradient_values(), name);
  model.update(schedule_, 1);
  const auto m = copy(model.state().adam_m(), name);  // (1 - beta1) times the clipped gradient
  const double factor = config.optimizer.clip / (result.grad_norms[2] + 1e-6);
  for (size_t i = 0; i < m.size(); ++i)
    EXPECT_NEAR(static_cast<double>(m[i]), 0.1 * factor * static_cast<double>(gradient[i]),
                1e-5 * factor * result.grad_norms[2]);
}

TEST_F(EngineTest, TeacherIsTheRunningMeanOfTheStudent) {
  HostModel model(small_config(), self_);
  model.initialize(2);
  const std::string name = "backbone.patch_embed.proj.weight";
  const auto before = copy(model.state().teacher_values(), name);
  EXPECT_EQ(before, copy(model.state().student_values(), name));
  (void)model.forward_backward(data_.batch, schedule_, {});
  model.update(schedule_, 1);
  const auto student = copy(model.state().student_values(), name),
             teacher = copy(model.state().teacher_values(), name);
  for (size_t i = 0; i < teacher.size(); ++i)
    EXPECT_NEAR(static_cast<double>(teacher[i]),
                0.9 * static_cast<double>(before[i]) + 0.1 * static_cast<double>(student[i]), 1e-7);
}

TEST_F(EngineTest, RepeatedStepsOnOneBatchLowerTheLoss) {
  HostModel model(small_config(), self_);
  model.initialize(2);
  schedule_.momentum = 1;  // a fixed teacher
  double first = 0, last = 0;
  for (int64_t step = 1; step <= 30; ++step) {
    const StepResult result = model.forward_backward(data_.batch, schedule_, {});
    ASSERT_TRUE(result.finite);
    (step == 1 ? first : last) = result.losses.total;
    model.update(schedule_, step);
  }
  EXPECT_LT(last, first - 0.1);
}

TEST_F(EngineTest, CentresComeBackFromACheckpoint) {
  TrainingConfig config = small_config();
  config.objective.centering = Centering::softmax;
  HostModel a(config, self_), b(config, self_);
  a.initialize(2);
  b.initialize(2);
  (void)a.forward_backward(data_.batch, schedule_, {});
  (void)a.forward_backward(data_.batch, schedule_, {});
  b.set_objective_state(a.objective_state());
  EXPECT_EQ(a.objective_state(), b.objective_state());
  EXPECT_EQ(a.forward_backward(data_.batch, schedule_, {}).losses.total,
            b.forward_backward(data_.batch, schedule_, {}).losses.total);
  auto broken = a.objective_state();
  broken["ibot_centre"].pop_back();
  EXPECT_THROW(b.set_objective_state(broken), DataError);
  broken.erase("ibot_centre");
  EXPECT_THROW(b.set_objective_state(broken), DataError);
}

TEST_F(EngineTest, NotFiniteIsReported) {
  HostModel model(small_config(), self_);
  model.initialize(2);
  data_.local.as<float>()[0] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(model.forward_backward(data_.batch, schedule_, {}).finite);
}

TEST_F(EngineTest, RunsWithoutMasksAndWithoutRegularizer) {
  TrainingConfig config = small_config();
  config.objective.koleo_weight = 0;
  HostModel model(config, self_);
  model.initialize(2);
  data_.batch.masks = {};
  const StepResult result = model.forward_backward(data_.batch, schedule_, {});
  EXPECT_TRUE(result.finite);
  EXPECT_EQ(result.losses.ibot, 0.0);
  EXPECT_EQ(result.losses.koleo, 0.0);
  EXPECT_EQ(result.grad_norms[2], 0.0);
  EXPECT_GT(result.grad_norms[0], 0.0);
  EXPECT_NEAR(result.losses.total, result.losses.dino_local + result.losses.dino_global, 1e-12);
}

TEST_F(EngineTest, HalfPrecisionIsCloseToF32) {
  TrainingConfig config = small_config();
  HostModel f32(config, self_);
  f32.initialize(2);
  const StepResult a = f32.forward_backward(data_.batch, schedule_, {});
  // f16 has three bits more.
  for (const auto& [precision, part] : {std::pair{Precision::bf16, 1.0}, {Precision::f16, 0.125}}) {
    config.precision = precision;
    config.loss_scale = 1024;
    HostModel half(config, self_);
    half.initialize(2);
    const StepResult b = half.forward_backward(data_.batch, schedule_, {});
    EXPECT_NE(a.losses.total, b.losses.total);
    EXPECT_NEAR(b.losses.total / a.losses.total, 1.0, 0.02 * part);
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(b.grad_norms[i] / a.grad_norms[i], 1.0, 0.1 * part) << i;
  }
}

/// Where only sums over ranks are f16 all of one rank is f32, and a power of two leaves no trace.
TEST_F(EngineTest, TheLossScaleIsTakenBack) {
  TrainingConfig config = small_config();
  config.optimizer.clip = 0.01;
  HostModel plain(config, self_);
  config.reduce_precision = Precision::f16;
  config.loss_scale = 1024;
  HostModel scaled(config, self_);
  plain.initialize(2);
  scaled.initialize(2);
  for (int64_t step = 1; step <= 3; ++step) {
    const StepResult a = plain.forward_backward(data_.batch, schedule_, {});
    const StepResult b = scaled.forward_backward(data_.batch, schedule_, {});
    EXPECT_EQ(a.loss_scale, 1);
    EXPECT_EQ(b.loss_scale, 1024);
    EXPECT_EQ(a.losses.total, b.losses.total);
    EXPECT_EQ(a.grad_norms, b.grad_norms);
    plain.update(schedule_, step);
    scaled.update(schedule_, step);
  }
  for (const char* module : {"backbone", "dino_head", "ibot_head"}) {
    EXPECT_EQ(module_values(plain.state().student_values(), module),
              module_values(scaled.state().student_values(), module));
    const std::vector<float> a = module_values(plain.state().gradient_values(), module),
                             b = module_values(scaled.state().gradient_values(), module);
    for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(1024 * a[i], b[i]) << module << " " << i;
  }
}

TEST_F(EngineTest, AnOverflowLowersTheLossScaleAndChangesNothing) {
  TrainingConfig config = small_config();
  HostModel f32(config, self_);
  config.precision = Precision::f16;
  config.loss_scale = 0x1p40;
  HostModel model(config, self_);
  f32.initialize(2);
  model.initialize(2);
  const auto before = module_values(model.state().student_values(), "backbone");
  StepResult result = model.forward_backward(data_.batch, schedule_, {});
  int falls = 0;
  for (; !result.finite && falls < 40; ++falls) {
    EXPECT_TRUE(result.scale_fell);
    EXPECT_EQ(model.loss_scale(), result.loss_scale / 2);
    EXPECT_TRUE(std::isfinite(result.losses.total)) << "of what overflows the loss is no part";
    model.update(schedule_, 1);
    EXPECT_EQ(module_values(model.state().student_values(), "backbone"), before);
    result = model.forward_backward(data_.batch, schedule_, {});
  }
  EXPECT_GT(falls, 5);
  EXPECT_EQ(result.loss_scale, 0x1p40 / std::exp2(falls));
  const StepResult expected = f32.forward_backward(data_.batch, schedule_, {});
  EXPECT_NEAR(result.losses.total / expected.losses.total, 1.0, 0.0025);
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(result.grad_norms[i] / expected.grad_norms[i], 1.0, 0.0125) << i;
  model.update(schedule_, 1);
  EXPECT_NE(module_values(model.state().student_values(), "backbone"), before);
  // Another process goes on with that scale.
  HostModel resumed(config, self_);
  resumed.set_objective_state(model.objective_state());
  EXPECT_EQ(resumed.loss_scale(), result.loss_scale);
}

/// At the least scale a step that is not finite is a fault as in any precision.
TEST_F(EngineTest, TheLossScaleHasAFloor) {
  TrainingConfig config = small_config();
  config.precision = Precision::f16;
  config.loss_scale = 2;
  HostModel model(config, self_);
  model.initialize(2);
  data_.local.as<float>()[0] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(model.forward_backward(data_.batch, schedule_, {}).scale_fell);
  const StepResult result = model.forward_backward(data_.batch, schedule_, {});
  EXPECT_FALSE(result.finite);
  EXPECT_FALSE(result.scale_fell);
  EXPECT_EQ(model.loss_scale(), 1);
}

TEST_F(EngineTest, StochasticDepthIsThatOfThePlan) {
  TrainingConfig config = small_config();
  config.vit.drop_path = 0.4;
  HostModel model(config, self_);
  model.initialize(2);
  const std::array<DropPathEntry, 2> entries{DropPathEntry{2, 3, 0, 3}, {2, 3, 0, 3}};
  const auto total = [&](uint64_t step) {
    const DropPathPlan plan = draw_drop_path(config.vit, entries, 1, step);
    return model.forward_backward(data_.batch, schedule_, [&](Range) { return plan; }).losses.total;
  };
  EXPECT_EQ(total(1), total(1));
  EXPECT_NE(total(1), total(2));
  EXPECT_NE(total(1), model.forward_backward(data_.batch, schedule_, {}).losses.total);
}

TEST_F(EngineTest, ArenaStopsGrowingAndPhasesAreTimed) {
  HostModel model(small_config(), self_);
  model.initialize(2);
  (void)model.forward_backward(data_.batch, schedule_, {});
  (void)model.forward_backward(data_.batch, schedule_, {});
  const int64_t bytes = model.arena_bytes();
  EXPECT_GT(bytes, 0);
  (void)model.forward_backward(data_.batch, schedule_, {});
  model.update(schedule_, 1);
  EXPECT_EQ(model.arena_bytes(), bytes);
  for (const char* phase : {"teacher", "student_forward", "losses", "backward", "optimizer"})
    EXPECT_GT(model.phase_seconds().at(phase), 0.0) << phase;
}

}  // namespace
}  // namespace dino
