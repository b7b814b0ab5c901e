// SPDX-License-Identifier: Apache-2.0
#include "training/losses.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>

#include "base/random.hpp"
#include "support.hpp"
#include "training/targets.hpp"

namespace dino::testing {
namespace {

using Matrix = std::vector<std::vector<double>>;

Tensor random_matrix(int64_t rows, int64_t columns, double scale, uint64_t id) {
  Tensor x(Shape{rows, columns});
  Random random(17, RandomStream::test, id);
  for (float& value : x.f32()) value = static_cast<float>(scale * random.normal());
  return x;
}

Matrix widen(const Tensor& x) {
  Matrix m(static_cast<size_t>(x.shape()[0]));
  const std::span<const float> values = x.f32();
  const auto columns = static_cast<size_t>(x.shape()[1]);
  for (size_t r = 0; r < m.size(); ++r)
    for (size_t c = 0; c < columns; ++c) m[r].push_back(static_cast<double>(values[r * columns + c]));
  return m;
}

/// The reference's nine-reduction form, step by step, in f64. Shifting all logits by one number changes
/// nothing but keeps exp finite.
Matrix naive_sinkhorn(Matrix q, double temperature, int iterations) {
  const double b = static_cast<double>(q.size()), k = static_cast<double>(q[0].size());
  double shift = q[0][0], total = 0;
  for (const auto& row : q) shift = std::max(shift, *std::max_element(row.begin(), row.end()));
  for (auto& row : q)
    for (double& x : row) total += x = std::exp((x - shift) / temperature);
  for (auto& row : q)
    for (double& x : row) x /= total;
  for (int i = 0; i < iterations; ++i) {
    for (size_t c = 0; c < q[0].size(); ++c) {
      double sum = 0;
      for (const auto& row : q) sum += row[c];
      for (auto& row : q) row[c] = row[c] / sum / k;
    }
    for (auto& row : q) {
      double sum = 0;
      for (const double x : row) sum += x;
      for (double& x : row) x = x / sum / b;
    }
  }
  for (auto& row : q)
    for (double& x : row) x *= b;
  return q;
}

void expect_targets(const Tensor& got, const Matrix& want, double tolerance) {
  double worst = 0, largest = 0;
  for (size_t r = 0; r < want.size(); ++r) {
    double sum = 0;
    for (size_t c = 0; c < want[r].size(); ++c) {
      const auto value = static_cast<double>(got.f32()[r * want[r].size() + c]);
      EXPECT_TRUE(std::isfinite(value));
      worst = std::max(worst, std::abs(value - want[r][c]));
      largest = std::max(largest, want[r][c]);
      sum += value;
    }
    EXPECT_NEAR(sum, 1.0, 1e-5);
  }
  EXPECT_LE(worst, tolerance * largest);
}

class Losses : public ::testing::TestWithParam<int> {
 protected:
  HostPlace place_{Precision::f32, *all_backends()[static_cast<size_t>(GetParam())]};
  const Context& c = place_.c;
};

TEST_P(Losses, SinkhornInScalingVectorsEqualsTheNineReductions) {
  for (const int iterations : {1, 3, 5}) {
    Tensor a = random_matrix(23, 57, 0.3, 1), b = random_matrix(9, 31, 0.2, 2);
    const Matrix want_a = naive_sinkhorn(widen(a), 0.05, iterations);
    const Matrix want_b = naive_sinkhorn(widen(b), 0.05, iterations);
    make_sinkhorn_targets(c, {a.view(), b.view()}, 0.05, iterations);
    expect_targets(a, want_a, 5e-6);
    expect_targets(b, want_b, 5e-6);
  }
}

TEST_P(Losses, SinkhornSurvivesLogitsThatOverflowTheExponential) {
  // exp(8 / 0.04) = e^200 overflows f32, and the rows lie far apart.
  Tensor x = random_matrix(12, 40, 0.3, 3);
  for (int64_t r = 0; r < 12; ++r)
    for (float& value : x.view().rows(r, 1).f32()) value += static_cast<float>(r % 3) * 1.5F + 5.0F;
  const Matrix want = naive_sinkhorn(widen(x), 0.04, 3);
  make_sinkhorn_targets(c, {x.view()}, 0.04, 3);
  expect_targets(x, want, 2e-5);
}

TEST_P(Losses, SinkhornWithoutRowsDoesNothing) {
  Tensor a = random_matrix(4, 8, 0.3, 4);
  Tensor none(Shape{0, 16});
  make_sinkhorn_targets(c, {a.view(), none.view()}, 0.05, 3);
  for (const float value : a.f32()) EXPECT_TRUE(std::isfinite(value));
}

/// 600 rows cross the blocks of 256, and a block's end in the middle of what is asked for.
TEST_P(Losses, TargetsMadeAgainHaveTheBitsOfKeptOnes) {
  const int64_t rows = 600, k = 61, width = 8;
  ASSERT_LT(2 * logits_chunk_rows(c, k), rows);
  const Tensor unit = random_matrix(rows, width, 0.4, 10), prototypes = random_matrix(k, width, 0.4, 11);
  const Arena::Scope scope(c.arena);
  for (const bool softmax : {false, true}) {
    Tensor logits(Shape{rows, k});
    c.ops.linear(c.stream, unit, prototypes, {}, ops::Activation::none, logits, {});
    TeacherTargets kept(logits), again(c, unit, prototypes);
    ASSERT_FALSE(again.kept());
    for (TeacherTargets* targets : {&kept, &again}) {
      SoftmaxCentre centre(k, 0.5, c.ops.memory());
      centre.restore(c.stream, {std::vector<double>(k, 0.25), std::vector<double>(k, -0.5)});
      if (softmax)
        centre.targets(c, *targets, rows, 0.07);
      else
        sinkhorn(c, std::array{targets}, 0.05, 3);
      if (targets == &kept) continue;
      for (int64_t first = 0; first < rows; first += 100) {
        const ConstTensorView made = again.block(c, first, 100), want = kept.block(c, first, 100);
        ASSERT_EQ(std::memcmp(made.data, want.data, static_cast<size_t>(100 * k) * sizeof(float)), 0)
            << "softmax " << softmax << ", row " << first;
      }
    }
  }
}

/// sum_r weight_r CE(target_r, softmax(unit_r W^T / T)) in f64.
double naive_cross_entropy(const Matrix& unit, const Matrix& prototypes, const Matrix& targets,
                           const std::vector<float>& weight, double temperature) {
  double loss = 0;
  for (size_t r = 0; r < unit.size(); ++r) {
    std::vector<double> s;
    for (const auto& w : prototypes) {
      double dot = 0;
      for (size_t c = 0; c < w.size(); ++c) dot += w[c] * unit[r][c];
      s.push_back(dot / temperature);
    }
    const double top = *std::max_element(s.begin(), s.end());
    double sum = 0;
    for (const double x : s) sum += std::exp(x - top);
    const double lse = top + std::log(sum);
    for (size_t k = 0; k < s.size(); ++k)
      loss += static_cast<double>(weight[r]) * targets[r][k] * (lse - s[k]);
  }
  return loss;
}

TEST_P(Losses, ChunkedCrossEntropyHasTheGradientOfFiniteDifferences) {
  // 300 rows cross the chunk of 256; segments of 70 rows share their targets, which sum to 2.
  const int64_t rows = 300, k = 11, width = 5, shared = 70;
  const Tensor unit = random_matrix(rows, width, 0.5, 5), prototypes = random_matrix(k, width, 0.5, 6);
  Tensor targets = random_matrix(shared, k, 1.0, 7);
  c.ops.softmax_centred(c.stream, targets, {}, 0.5F);
  for (float& value : targets.f32()) value *= 2;
  ASSERT_LT(logits_chunk_rows(c, k), rows);
  std::vector<TargetRows> segments;
  Matrix expanded;
  const Matrix wide = widen(targets);
  for (int64_t first = 0; first < rows; first += shared) {
    const int64_t count = std::min(shared, rows - first);
    segments.push_back(TargetRows::of(first, targets.view().rows(0, count)));
    expanded.insert(expanded.end(), wide.begin(), wide.begin() + static_cast<std::ptrdiff_t>(count));
  }
  std::vector<float> weight;
  for (int64_t r = 0; r < rows; ++r) weight.push_back(0.01F * static_cast<float>(1 + r % 5));
  Tensor loss(Shape{rows}), d_unit(Shape{rows, width}), d_prototypes(Shape{k, width});
  d_prototypes.as<float>()[0] = 1.0F;  // gradients of parameters are added
  prototype_cross_entropy(c, unit, prototypes, segments, 0.1, view_of(weight.data(), Shape{rows}), loss,
                          d_unit, d_prototypes);
  d_prototypes.as<float>()[0] -= 1.0F;

  Matrix u = widen(unit), w = widen(prototypes);
  const auto value = [&] { return naive_cross_entropy(u, w, expanded, weight, 0.1); };
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r)
    sum += static_cast<double>(weight[static_cast<size_t>(r)] * loss.f32()[static_cast<size_t>(r)]);
  EXPECT_NEAR(sum / value(), 1.0, 2e-6);
  const double h = 1e-5;
  const auto derivative = [&](double& x) {
    const double at = x;
    x = at + h;
    const double up = value();
    x = at - h;
    const double down = value();
    x = at;
    return (up - down) / (2 * h);
  };
  for (const size_t r : {size_t{0}, size_t{69}, size_t{70}, size_t{255}, size_t{256}, size_t{299}})
    for (size_t i = 0; i < static_cast<size_t>(width); ++i)
      EXPECT_NEAR(static_cast<double>(d_unit.f32()[r * static_cast<size_t>(width) + i]), derivative(u[r][i]),
                  2e-6);
  for (size_t r = 0; r < static_cast<size_t>(k); ++r)
    for (size_t i = 0; i < static_cast<size_t>(width); ++i)
      EXPECT_NEAR(static_cast<double>(d_prototypes.f32()[r * static_cast<size_t>(width) + i]),
                  derivative(w[r][i]), 2e-4);
}

/// In half precision the operands of the three products are rounded, the sums and the losses are not.
TEST_P(Losses, ChunkedCrossEntropyOfHalfPrecisionPrototypesIsNearThatOfF32) {
  const int64_t rows = 300, k = 40, width = 16;
  const Tensor unit = random_matrix(rows, width, 0.3, 15), prototypes = random_matrix(k, width, 0.3, 16);
  Tensor targets = random_matrix(rows, k, 1.0, 17);
  c.ops.softmax_centred(c.stream, targets, {}, 0.5F);
  const std::vector<float> weight(static_cast<size_t>(rows), 0.01F);
  struct Made {
    Tensor loss, d_unit, d_prototypes;
  };
  const auto run = [&](DType dtype) {
    Tensor narrow(prototypes.shape(), dtype);
    c.ops.convert(c.stream, prototypes, narrow);
    Made made{Tensor(Shape{rows}), Tensor(Shape{rows, width}), Tensor(Shape{k, width})};
    prototype_cross_entropy(c, unit, narrow, std::array{TargetRows::of(0, targets)}, 0.1,
                            view_of(weight.data(), Shape{rows}), made.loss, made.d_unit, made.d_prototypes);
    return made;
  };
  const Made exact = run(DType::f32);
  const auto distance = [](const Tensor& x, const Tensor& y) {
    double squares = 0, difference = 0;
    for (size_t i = 0; i < x.f32().size(); ++i) {
      const double a = static_cast<double>(x.f32()[i]), b = static_cast<double>(y.f32()[i]);
      squares += a * a;
      difference += (a - b) * (a - b);
    }
    return std::sqrt(difference / squares);
  };
  for (const auto& [dtype, bound] : {std::pair{DType::bf16, 1e-2}, {DType::f16, 1e-2 / 8}}) {
    const Made half = run(dtype);
    EXPECT_LT(distance(exact.loss, half.loss), bound) << name_of(dtype);
    EXPECT_LT(distance(exact.d_unit, half.d_unit), bound) << name_of(dtype);
    EXPECT_LT(distance(exact.d_prototypes, half.d_prototypes), bound) << name_of(dtype);
    EXPECT_GT(distance(exact.d_unit, half.d_unit), 0) << name_of(dtype);
  }
}

double naive_koleo(const Matrix& x) {
  double loss = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    double best = -2;
    size_t nn = 0;
    for (size_t j = 0; j < x.size(); ++j) {
      double dot = 0;
      for (size_t c = 0; c < x[i].size(); ++c) dot += x[i][c] * x[j][c];
      if (j != i && dot > best) {
        best = dot;
        nn = j;
      }
    }
    double square = 0;
    for (size_t c = 0; c < x[i].size(); ++c) square += std::pow(x[i][c] - x[nn][c] + 1e-8, 2);
    loss -= std::log(std::sqrt(square) + 1e-8) / static_cast<double>(x.size());
  }
  return loss;
}

TEST_P(Losses, KoLeoHasTheGradientOfFiniteDifferences) {
  const int64_t rows = 7, width = 6;
  Tensor x = random_matrix(rows, width, 1, 8), unit(Shape{rows, width}), norm(Shape{rows});
  c.ops.l2_normalize(c.stream, x, 1e-8F, unit, norm);
  Tensor gradient(Shape{rows, width});
  Tensor loss(Shape{1}, DType::f64), neighbours(Shape{1, rows}, DType::i64);
  koleo(c, unit.view().reshaped(Shape{1, rows, width}), {{rows}, 0}, 2.0, loss,
        gradient.view().reshaped(Shape{1, rows, width}), neighbours);
  Matrix u = widen(unit);
  EXPECT_NEAR(loss.as<double>()[0], naive_koleo(u), 1e-5);
  for (size_t r = 0; r < u.size(); ++r)
    for (size_t i = 0; i < u[r].size(); ++i) {
      const double at = u[r][i], h = 1e-6;
      u[r][i] = at + h;
      const double up = naive_koleo(u);
      u[r][i] = at - h;
      const double down = naive_koleo(u);
      u[r][i] = at;
      EXPECT_NEAR(static_cast<double>(gradient.f32()[r * u[r].size() + i]), 2 * (up - down) / (2 * h), 1e-4);
    }
}

TEST_P(Losses, KoLeoWithoutNeighboursIsNothingAndOfDuplicatesFinite) {
  const auto koleo_loss = [&](const Tensor& features, Tensor& gradient) {
    const int64_t rows = features.shape()[1];
    Tensor loss(Shape{1}, DType::f64), neighbours(Shape{features.shape()[0], rows}, DType::i64);
    koleo(c, features, {{rows}, 0}, 1.0, loss, gradient, neighbours);
    return loss.as<double>()[0];
  };
  Tensor one(Shape{2, 1, 4}), gradient(Shape{2, 1, 4});
  for (float& value : one.f32()) value = 0.5F;
  gradient.as<float>()[0] = 1;
  EXPECT_EQ(koleo_loss(one, gradient), 0.0);
  for (const float value : gradient.f32()) EXPECT_EQ(value, 0.0F);

  Tensor same(Shape{1, 3, 4}), d(Shape{1, 3, 4});
  for (float& value : same.f32()) value = 0.5F;
  // Equal, and equal but for rounding: told apart no further than f32 can, and pushed nowhere.
  for (const float difference : {0.0F, 6e-8F}) {
    same.as<float>()[1] += difference;
    for (float& value : d.f32()) value = 1;
    EXPECT_NEAR(koleo_loss(same, d), -std::log(1e-6), 0.02);
    for (const float value : d.f32()) EXPECT_EQ(value, 0.0F);
  }
  same.as<float>()[1] += 1e-4F;
  (void)koleo_loss(same, d);
  EXPECT_GT(std::abs(d.as<float>()[1]), 1.0F);
}

/// CE - ln K of a student with weight-normed random prototypes (drawn uniformly, as torch.nn.Linear does)
/// whose features are the teacher's and the same for all rows: Sinkhorn, then softmax with a zero centre.
std::array<double, 2> loss_at_initialisation(int64_t k, int64_t bottleneck) {
  HostPlace place;
  const Context& c = place.c;
  const int64_t rows = 2;
  Random random(3, RandomStream::test, 9);
  Tensor prototypes(Shape{k, bottleneck}), norm(Shape{k});
  for (float& value : prototypes.f32()) value = random.uniform() - 0.5F;
  c.ops.l2_normalize(c.stream, prototypes, 1e-12F, prototypes, norm);
  Tensor unit(Shape{rows, bottleneck}), length(Shape{rows});
  for (float& value : unit.view().rows(0, 1).f32()) value = static_cast<float>(random.normal());
  std::memcpy(unit.view().rows(1, 1).data, unit.view().data, static_cast<size_t>(bottleneck) * sizeof(float));
  c.ops.l2_normalize(c.stream, unit, 1e-12F, unit, length);
  Tensor logits(Shape{rows, k}), d_prototypes(prototypes.shape());
  c.ops.linear(c.stream, unit, prototypes, {}, ops::Activation::none, logits, {});
  std::array<double, 2> offset{};
  for (const size_t mode : {size_t{0}, size_t{1}}) {
    Tensor targets = logits.clone();
    if (mode == 0)
      make_sinkhorn_targets(c, {targets.view()}, 0.04, 3);
    else
      c.ops.softmax_centred(c.stream, targets, {}, 0.04F);
    const std::vector<float> weight(static_cast<size_t>(rows), 1.0F);
    Tensor loss(Shape{rows}), d_unit(unit.shape());
    prototype_cross_entropy(c, unit, prototypes, std::array{TargetRows::of(0, targets)}, 0.1,
                            view_of(weight.data(), Shape{rows}), loss, d_unit, d_prototypes);
    offset[mode] = static_cast<double>(loss.f32()[0]) - std::log(static_cast<double>(k));
  }
  return offset;
}

TEST(LossAtInitialisation, IsTheMeasuredOneForIdenticalFeatures) {
  // Measured on the reference. ln K itself is the value of a collapsed run.
  const std::array<double, 2> published = loss_at_initialisation(65536, 256);
  EXPECT_NEAR(published[0], 0.196, 0.01);
  EXPECT_NEAR(published[1], -0.775, 0.02);
  const std::array<double, 2> large = loss_at_initialisation(131072, 384);
  EXPECT_NEAR(large[0], 0.131, 0.01);
  EXPECT_NEAR(large[1], -0.521, 0.02);
}

INSTANTIATE_TEST_SUITE_P(Backends, Losses, ::testing::Values(0, 1),
                         [](const auto& which) { return which.param == 0 ? "reference" : "cpu"; });

}  // namespace
}  // namespace dino::testing
