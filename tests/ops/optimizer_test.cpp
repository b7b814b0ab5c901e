// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class OptimizerTest : public OperatorTest {};
INSTANTIATE_TEST_SUITE_P(Backends, OptimizerTest, ::testing::ValuesIn(variants(false)), variant_name);

TEST_P(OptimizerTest, ClipFactors) {
  const ConstTensorView squares = input(tensor_of<double>({0, 9, 16, 1e-30, 1e40, HUGE_VAL}));
  const TensorView factors = output({6});
  ops().clip_factors(stream(), squares, 1, 3.5, factors);
  expect_close(factors, {1, 1, 3.5 / (4 + 1e-6), 1, 3.5e-20, 0}, 1e-7, "factors");
  EXPECT_NEAR(values_of(factors)[4], 3.5e-20, 1e-26);
  ops().clip_factors(stream(), squares, 1, 0, factors);
  expect_close(factors, Values(6, 1.0), 0, "no limit");
  // The norms are 0, 3 / 8, 1 / 2, ..., and the scale is taken back.
  ops().clip_factors(stream(), squares, 8, 0.4, factors);
  expect_close(factors, {0.125, 0.125, 0.05 / (0.5 + 1e-6), 0.125, 0.4e-20, 0}, 1e-7, "scaled");
  ops().clip_factors(stream(), squares, 8, 0, factors);
  expect_close(factors, Values(6, 0.125), 0, "scaled, no limit");
  EXPECT_THROW(ops().clip_factors(stream(), squares, 1, 1, factors.rows(0, 5)), InternalError);
  EXPECT_THROW(ops().clip_factors(stream(), squares, 1, -1, factors), InternalError);
  EXPECT_THROW(ops().clip_factors(stream(), squares, 0, 1, factors), InternalError);
}

TEST_P(OptimizerTest, AdamWTakesThreeSteps) {
  for (const int64_t n : {0, 1, 19, 40000}) {
    const TensorView w = random_inout({n}, DType::f32, 11), m = zeros({n}), v = zeros({n});
    Values ws = values_of(w), ms(at(n)), vs(at(n));
    Backend::AdamW settings{0.01f, 0.9f, 0.95f, 1e-8f, 0.1f, 0};
    const auto rate = static_cast<double>(settings.learning_rate);
    const auto b1 = static_cast<double>(settings.beta1), b2 = static_cast<double>(settings.beta2);
    for (int step = 1; step <= 3; ++step) {
      settings.step = step;
      const ConstTensorView g = random({n}, DType::f32, 20 + static_cast<uint64_t>(step));
      const Values gs = values_of(g);
      ops().adamw(stream(), w, g, m, v, settings, scalar(0.5f), scalar(1), {});
      for (size_t i = 0; i < gs.size(); ++i) {
        const double gradient = 0.5 * gs[i];
        ws[i] -= rate * static_cast<double>(settings.weight_decay) * ws[i];
        ms[i] = b1 * ms[i] + (1 - b1) * gradient;
        vs[i] = b2 * vs[i] + (1 - b2) * gradient * gradient;
        ws[i] -= rate * (ms[i] / (1 - std::pow(b1, step))) /
                 (std::sqrt(vs[i] / (1 - std::pow(b2, step))) + static_cast<double>(settings.eps));
      }
    }
    expect_close(w, ws, 2e-6, "w");
    expect_close(m, ms, 2e-6, "m");
    expect_close(v, vs, 2e-6, "v");
  }
}

TEST_P(OptimizerTest, Ema) {
  for (const int64_t n : {0, 1, 19, 40000}) {
    const ConstTensorView value = random({n}, DType::f32, 13);
    const Values vs = values_of(value);
    const auto keep = static_cast<double>(0.992f);
    for (const bool given : {false, true}) {
      const TensorView average = random_inout({n}, DType::f32, 12);
      Values expected = values_of(average);
      for (size_t i = 0; i < vs.size(); ++i) expected[i] = keep * expected[i] + (1 - keep) * vs[i];
      ops().ema(stream(), average, value, 0.992f, given ? scalar(1) : ConstTensorView{});
      expect_close(average, expected, 1e-6, "average");
    }
  }
}

/// A step that is not applied leaves every bit: also what arithmetic would change (-0, NaN, denormals).
TEST_P(OptimizerTest, NothingChangesWhereItIsNotApplied) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Tensor start = random_tensor({40}, DType::f32, 14);
  start.as<float>()[0] = -0.0f, start.as<float>()[1] = nan, start.as<float>()[2] = 1e-42f;
  Tensor gradient = random_tensor({40}, DType::f32, 15);
  gradient.as<float>()[5] = nan;
  const TensorView w = inout(start), m = inout(start), v = inout(start), average = inout(start);
  const ConstTensorView g = input(gradient);
  ops().adamw(stream(), w, g, m, v, {0.01f, 0.9f, 0.95f, 1e-8f, 0.1f, 3}, scalar(nan), scalar(0), {});
  ops().ema(stream(), average, g, 0.9f, scalar(0));
  for (const TensorView& state : {w, m, v, average})
    EXPECT_EQ(std::memcmp(host_copy(state).as<float>(), start.as<float>(), at(start.bytes())), 0);
}

TEST_P(OptimizerTest, RejectsSizesThatDiffer) {
  const TensorView a = zeros({4}), b = zeros({5});
  EXPECT_THROW(ops().ema(stream(), a, b, 0.5f, {}), InternalError);
  EXPECT_THROW(ops().ema(stream(), a, a, 0.5f, a), InternalError);
  EXPECT_THROW(ops().adamw(stream(), a, a, a, b, {}, scalar(1), scalar(1), {}), InternalError);
  EXPECT_THROW(ops().adamw(stream(), a, a, a, a, {}, {}, scalar(1), {}), InternalError);
  EXPECT_THROW(ops().adamw(stream(), a, a, a, a, {}, scalar(1), {}, {}), InternalError);
}

}  // namespace
}  // namespace dino::ops::testing
