// SPDX-License-Identifier: Apache-2.0
// The whole model on other devices than the host's fast one: on memory that the host cannot touch it gives
// the same bits, on the naive backend the same numbers.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "mapped/training_run.hpp"

namespace dino::testing {
namespace {

class TrainingOnDevice : public ::testing::TestWithParam<TrainingCase> {
 protected:
  Communicator self_ = Communicator::self();
  ops::Backend& cpu_ = ops::backend_named("cpu");
};

TEST_P(TrainingOnDevice, GivesTheBitsOfTheHost) {
  const TrainingRun host = train(GetParam(), cpu_, self_);
  for (const Execution execution : {Execution::at_once, Execution::late}) {
    SCOPED_TRACE(name_of(execution));
    MappedBackend device(cpu_, execution);
    expect_same(train(GetParam(), device, self_), host);
  }
}

/// In all steps, so that gradients and updates are compared as well. In 16 bits both round, but at other
/// places.
TEST_P(TrainingOnDevice, AgreesWithTheReference) {
  const Precision precision = GetParam().config.precision;
  const double tolerance = precision == Precision::f32 ? 1e-5 : precision == Precision::bf16 ? 2e-2 : 5e-3;
  const TrainingRun fast = train(GetParam(), cpu_, self_);
  const TrainingRun naive = train(GetParam(), ops::backend_named("reference"), self_);
  ASSERT_EQ(fast.steps.size(), naive.steps.size());
  for (size_t step = 0; step < fast.steps.size(); ++step) {
    const std::vector<double>&actual = fast.steps[step], &expected = naive.steps[step];
    for (size_t i = 0; i + 1 < expected.size(); ++i)
      EXPECT_NEAR(actual[i], expected[i], tolerance * std::abs(expected[i])) << "step " << step << ", " << i;
    // A count: where two prototypes are almost equal, rounding decides which is a row's largest.
    const double prototypes = static_cast<double>(GetParam().config.objective.dino_head.prototypes);
    EXPECT_NEAR(actual.back() * prototypes, expected.back() * prototypes, 2.01) << "step " << step;
  }
}

/// The update's own flag decides, on the device.
TEST_P(TrainingOnDevice, AStepThatIsNotFiniteChangesNothing) {
  const TrainingConfig& config = GetParam().config;
  MappedBackend device(cpu_, Execution::late);
  Workplace place(device, make_mapped_collective(device.memory(), make_mpi_collective(self_)),
                  config.precision);
  Stream& stream = place.context().stream;
  Engine model(config, place.context(), self_);
  model.initialize(3);
  const auto values = [&] {
    std::vector<float> all;
    for (ShardedValues* store : {&model.state().student_values(), &model.state().teacher_values(),
                                 &model.state().adam_m(), &model.state().adam_v()}) {
      const std::vector<float> part = values_of(stream, *store);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  };
  const StepSchedule schedule{1e-3, 1e-3, 0.04, 0.99, 0.05};
  BatchPart part(config, 4, 0, 4, 0, false);
  EXPECT_TRUE(model.forward_backward(part.batch, schedule, {}).finite);
  model.update(schedule, 1);
  const std::vector<float> before = values();
  part.local.f32()[5] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(model.forward_backward(part.batch, schedule, {}).finite);
  model.update(schedule, 2);
  EXPECT_TRUE(values() == before);
}

INSTANTIATE_TEST_SUITE_P(Cases, TrainingOnDevice, ::testing::ValuesIn(training_cases()),
                         [](const auto& test) { return test.param.name; });

/// What evaluation and its heads read: an intermediate block, the class token's attention, and the gradients
/// of all that comes out with respect to weights and images, at another size than the table of positions.
std::vector<float> vit_results(Workplace& place, const VitConfig& config) {
  const Context& c = place.context();
  ParameterLayout layout;
  append_vit_layout(layout, config);
  ParameterStore drawn(layout), weights(layout, c.ops.memory()), gradients(layout, c.ops.memory());
  drawn.initialize(7);
  weights.copy_from(c.stream, drawn);
  const auto noise = [&](const Shape& shape, uint64_t id) {
    Tensor tensor(shape);
    Random random(2, RandomStream::test, id);
    for (float& value : tensor.f32()) value = static_cast<float>(random.normal());
    const TensorView view = c.arena.make(shape);
    copy(c.stream, view, tensor);
    return view;
  };
  const std::array<CropBatch, 1> crops{CropBatch{noise({2, 3, 40, 24}, 1), {}}};
  VitForwardOptions options;
  options.intermediate_blocks = {0, config.depth - 1};
  options.attention_of_class_token = true;
  std::shared_ptr<VitSaved> saved;
  const Vit vit(config);
  const VitOutput output = vit.forward(c, weights, crops, options, &saved);
  const TensorView d_images = c.arena.make(crops[0].images.shape);
  vit.backward(c, weights, *saved, noise(output.norm.shape, 2), noise(output.norm.shape, 3), gradients,
               {&d_images, 1});
  std::vector<float> values = values_of(c.stream, gradients);
  for (const TensorView view : {output.norm, output.prenorm, output.intermediate[0], output.intermediate[1],
                                output.last_attention, d_images}) {
    Tensor buffer;
    const std::span<const float> part = host_view(c, view, buffer).f32();
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

TEST(VitOnDevice, GivesTheBitsOfTheHost) {
  const Communicator self = Communicator::self();
  ops::Backend& cpu = ops::backend_named("cpu");
  for (const TrainingCase& given : training_cases()) {
    SCOPED_TRACE(given.name);
    const VitConfig& config = given.config.vit;
    Workplace host(cpu, self, given.config.precision);
    const std::vector<float> expected = vit_results(host, config);
    for (const float value : expected) ASSERT_TRUE(std::isfinite(value));
    for (const Execution execution : {Execution::at_once, Execution::late}) {
      MappedBackend device(cpu, execution);
      Workplace place(device, make_mapped_collective(device.memory(), make_mpi_collective(self)),
                      given.config.precision);
      EXPECT_TRUE(vit_results(place, config) == expected) << name_of(execution);
    }
  }
}

}  // namespace
}  // namespace dino::testing
