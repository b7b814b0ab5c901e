// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class ReductionsTest : public OperatorTest {};
INSTANTIATE_TEST_SUITE_P(Backends, ReductionsTest, ::testing::ValuesIn(variants(false)), variant_name);

/// None, one, parts of a vector, and several chunks.
const std::vector<int64_t> kSizes = {0, 1, 17, 100003};
const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

TEST_P(ReductionsTest, SumsAreAddedAndDoNotDependOnThreads) {
  for (const int64_t n : kSizes) {
    const ConstTensorView x = random({n}, DType::f32, 1), weight = random({n}, DType::f32, 2);
    const Values xs = values_of(x), ws = values_of(weight), ones(xs.size(), 1.0);
    const double magnitude = 1 + dot(xs, xs) + dot(ws, ws);
    Values first;
    for (const int threads : {1, 2, 3}) {
      set_threads(threads);
      const TensorView out = inout(tensor_of<double>({3, 3, 3}));
      ops().sum_of_squares(stream(), x, out.rows(0, 1));
      ops().weighted_sum(stream(), x, weight, 0.25, out.rows(1, 1));
      ops().weighted_sum(stream(), x, {}, -2, out.rows(2, 1));
      const Values got = values_of(out);
      if (threads == 1) first = got;
      EXPECT_EQ(got, first) << threads << " threads";
      EXPECT_NEAR(got[0], 3 + dot(xs, xs), 1e-13 * magnitude);
      EXPECT_NEAR(got[1], 3 + 0.25 * dot(xs, ws), 1e-13 * magnitude);
      EXPECT_NEAR(got[2], 3 - 2 * dot(xs, ones), 1e-13 * magnitude);
    }
  }
  set_threads(1);
}

TEST_P(ReductionsTest, SumsKeepWhatSinglePrecisionWouldLose) {
  std::vector<float> values(20000, 1.0f);
  values[0] = 3e8f;  // f32 could not tell it from one more
  const TensorView out = zeros({1}, DType::f64);
  ops().weighted_sum(stream(), input(tensor_of(values)), {}, 1, out);
  EXPECT_EQ(values_of(out)[0], 3e8 + 19999);
}

TEST_P(ReductionsTest, NanAndInfinityReachTheSums) {
  for (const float bad : {kNan, kInfinity}) {
    std::vector<float> values(50, 1.0f);
    values[37] = bad;
    const TensorView out = zeros({2}, DType::f64);
    ops().weighted_sum(stream(), input(tensor_of(values)), {}, 1, out.rows(0, 1));
    ops().sum_of_squares(stream(), input(tensor_of(values)), out.rows(1, 1));
    for (const double got : values_of(out)) EXPECT_FALSE(std::isfinite(got));
  }
}

TEST_P(ReductionsTest, Maximum) {
  const auto maximum = [&](const Tensor& x) {
    const TensorView out = output({1});
    ops().maximum(stream(), input(x), out);
    return values_of(out)[0];
  };
  EXPECT_EQ(maximum(Tensor({0})), -HUGE_VAL);
  for (const int64_t n : {1, 17, 100003}) {
    Tensor x = random_tensor({n}, DType::f32, 3);
    for (float& v : x.f32()) v -= 100;  // all below 0: the padding of a vector must not win
    for (const int64_t where : {int64_t{0}, n / 2, n - 1}) {
      x.as<float>()[where] = -1;
      EXPECT_EQ(maximum(x), -1) << n << " " << where;
      x.as<float>()[where] = -200;
    }
  }
  EXPECT_EQ(maximum(tensor_of<float>({1, kInfinity, 2})), HUGE_VAL);
}

TEST_P(ReductionsTest, AllFinite) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto finite = [&](const std::vector<double>& values) {
    const TensorView flag = output({1});
    ops().all_finite(stream(), input(tensor_of(values)), flag);
    return values_of(flag)[0];
  };
  EXPECT_EQ(finite({}), 1);
  EXPECT_EQ(finite({0, 1e308, -1e308}), 1);
  EXPECT_EQ(finite({0, 1, nan}), 0);
  EXPECT_EQ(finite({HUGE_VAL, 1, 2}), 0);
  EXPECT_EQ(finite({0, -HUGE_VAL, 2}), 0);
}

TEST_P(ReductionsTest, RejectsOtherTypesAndShapes) {
  const ConstTensorView x = random({4}, DType::f32, 4), half = random({4}, DType::bf16, 5);
  const TensorView one = zeros({1}, DType::f64), two = zeros({2}, DType::f64), single = zeros({1});
  EXPECT_THROW(ops().sum_of_squares(stream(), x, two), InternalError);
  EXPECT_THROW(ops().sum_of_squares(stream(), x, single), InternalError);
  EXPECT_THROW(ops().sum_of_squares(stream(), x, {}), InternalError);
  EXPECT_THROW(ops().sum_of_squares(stream(), half, one), InternalError);
  EXPECT_THROW(ops().weighted_sum(stream(), x, x.rows(0, 3), 1, one), InternalError);
  EXPECT_THROW(ops().maximum(stream(), x, one), InternalError);
  EXPECT_THROW(ops().all_finite(stream(), x, single), InternalError);
}

}  // namespace
}  // namespace dino::ops::testing
