// SPDX-License-Identifier: Apache-2.0
#include <limits>
#include <numeric>

#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class HealthTest : public OperatorTest {};
INSTANTIATE_TEST_SUITE_P(Backends, HealthTest, ::testing::ValuesIn(variants(false)), variant_name);

double plogp(double p) {
  return p > 0 ? -p * std::log(p) : 0;
}

/// Rows that sum to 1, some of them peaked, with exact zeros and a denormal.
Tensor targets_of(int64_t rows, int64_t k, uint64_t seed) {
  Tensor targets = random_tensor({rows, k}, DType::f32, seed);
  for (int64_t r = 0; r < rows; ++r) {
    float* row = targets.as<float>() + r * k;
    for (int64_t c = 0; c < k; ++c) row[c] = std::exp(static_cast<float>(1 + 10 * (r % 3)) * row[c]);
    const float total = std::accumulate(row, row + k, 0.0f);
    for (int64_t c = 0; c < k; ++c) row[c] /= total;
    if (k > 3) row[1] = 0, row[2] = 1e-40f;
  }
  return targets;
}

TEST_P(HealthTest, TargetStatistics) {
  for (const int64_t k : {1, 5, 16, 37, 1024, 2500}) {
    const int64_t rows = k == 37 || k == 1024 ? 75 : 7;
    const ConstTensorView targets = input(targets_of(rows, k, 1));
    const Values t = values_of(targets);
    Values first;
    for (const int threads : {1, 3}) {
      set_threads(threads);
      const TensorView sums = random_inout({2 * k}, DType::f32, 2);
      const TensorView entropy = inout(tensor_of<double>({5}));
      Values expected = values_of(sums);
      double total = 5;
      for (int64_t r = 0; r < rows; ++r) {
        size_t best = 0;
        for (size_t c = 0; c < at(k); ++c) {
          const size_t i = at(r * k) + c;
          expected[c] += t[i];
          total += plogp(t[i]);
          if (t[i] > t[at(r * k) + best]) best = c;
        }
        expected[at(k) + best] += 1;
      }
      ops().target_statistics(stream(), targets, sums, entropy);
      expect_close(sums, expected, 1e-6, "sums and counts");
      EXPECT_NEAR(values_of(entropy)[0], total, 1e-6 * total) << k;
      Values got = values_of(sums);
      got.push_back(values_of(entropy)[0]);
      if (threads == 1) first = got;
      EXPECT_EQ(got, first) << threads << " threads";
    }
    set_threads(1);
  }
}

/// The first of equal elements counts, wherever they lie; a row of nothing but NaN counts for column 0, and
/// its sums are NaN.
TEST_P(HealthTest, TiesAndNanInTargets) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const int64_t k = 2100;
  Tensor targets({4, k});
  float* t = targets.as<float>();
  t[1030] = t[1031] = t[2050] = 0.25f;  // over vectors and blocks
  t[k + 2099] = 1;
  for (int64_t c = 0; c < k; ++c) t[3 * k + c] = nan;
  const TensorView sums = zeros({2 * k}), entropy = zeros({1}, DType::f64);
  ops().target_statistics(stream(), input(targets), sums, entropy);
  const Values got = values_of(sums);
  for (int64_t c = 0; c < k; ++c) {
    const double count = c == 0 ? 2 : c == 1030 || c == 2099 ? 1 : 0;  // rows 2 and 3 are equal everywhere
    EXPECT_EQ(got[at(k + c)], count) << c;
    EXPECT_TRUE(std::isnan(got[at(c)])) << c;
  }
}

TEST_P(HealthTest, MeanTargetStatistics) {
  for (const int64_t k : {1, 37, 20000}) {
    Tensor start = random_tensor({2 * k}, DType::f32, 3);
    for (float& v : start.f32()) v = v > 0 ? v : 0;
    double entropy = 0, used = 0;
    const Values s = host_values(start);
    for (size_t c = 0; c < at(k); ++c) {
      entropy += plogp(s[c] / 12);
      used += s[at(k) + c] > 0 ? 1 : 0;
    }
    Values first;
    for (const int threads : {1, 3}) {
      set_threads(threads);
      const TensorView out = output({2}, DType::f64);
      ops().mean_target_statistics(stream(), input(start), 12, out);
      const Values got = values_of(out);
      EXPECT_NEAR(got[0], entropy, 1e-11 * entropy);
      EXPECT_EQ(got[1], used / static_cast<double>(k));
      if (threads == 1) first = got;
      EXPECT_EQ(got, first) << threads << " threads";
    }
    set_threads(1);
  }
}

TEST_P(HealthTest, MeanColumnStd) {
  for (const int64_t d : {1, 31, 32, 100}) {
    for (const int64_t rows : {1, 300}) {
      Tensor start = random_tensor({rows, d}, DType::f32, 4);
      for (float& v : start.f32()) v += 3;
      const Values x = host_values(start);
      double total = 0;
      for (int64_t c = 0; c < d; ++c) {
        double mean = 0, squares = 0;
        for (int64_t r = 0; r < rows; ++r) mean += x[at(r * d + c)] / static_cast<double>(rows);
        for (int64_t r = 0; r < rows; ++r) squares += std::pow(x[at(r * d + c)] - mean, 2);
        total += std::sqrt(squares / static_cast<double>(rows));
      }
      Values first;
      for (const int threads : {1, 3}) {
        set_threads(threads);
        const TensorView out = output({1}, DType::f64);
        ops().mean_column_std(stream(), input(start), out);
        EXPECT_NEAR(values_of(out)[0], total / static_cast<double>(d), 1e-7);
        if (threads == 1) first = values_of(out);
        EXPECT_EQ(values_of(out), first) << threads << " threads";
      }
      set_threads(1);
    }
  }
}

TEST_P(HealthTest, RejectsShapesThatDoNotFit) {
  const ConstTensorView x = random({3, 4}, DType::f32, 5);
  const TensorView sums = zeros({8}), narrow = zeros({7}), scalar = zeros({1}, DType::f64);
  EXPECT_THROW(ops().target_statistics(stream(), x, narrow, scalar), InternalError);
  EXPECT_THROW(ops().target_statistics(stream(), x, sums, zeros({1})), InternalError);
  EXPECT_THROW(ops().mean_target_statistics(stream(), narrow, 1, zeros({2}, DType::f64)), InternalError);
  EXPECT_THROW(ops().mean_target_statistics(stream(), sums, 1, scalar), InternalError);
  EXPECT_THROW(ops().mean_column_std(stream(), sums, scalar), InternalError);
}

}  // namespace
}  // namespace dino::ops::testing
