// SPDX-License-Identifier: Apache-2.0
// Operators that do at once what two others do one after the other: against those, and against fp64.
#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class FusedTest : public OperatorTest {
 protected:
  static constexpr float kEps = 1e-6f;
};
INSTANTIATE_TEST_SUITE_P(Backends, FusedTest, ::testing::ValuesIn(variants()), variant_name);

/// Row by row, of rows that are x + factors * branch.
Values norm_of_sum(const Values& x, const Values& branch, const Values& factors, const Values& gamma,
                   const Values& beta, double eps) {
  const size_t d = gamma.size();
  Values y(x.size());
  for (size_t first = 0; first < x.size(); first += d) {
    double mean = 0, squares = 0;
    for (size_t c = 0; c < d; ++c) {
      y[first + c] = x[first + c] + factors[c] * branch[first + c];
      mean += y[first + c] / static_cast<double>(d);
    }
    for (size_t c = 0; c < d; ++c) squares += std::pow(y[first + c] - mean, 2) / static_cast<double>(d);
    for (size_t c = 0; c < d; ++c)
      y[first + c] = (y[first + c] - mean) / std::sqrt(squares + eps) * gamma[c] + beta[c];
  }
  return y;
}

TEST_P(FusedTest, GatheredNormHasTheBitsOfBoth) {
  for (const int64_t d : {1, 8, 37, 384, 2600}) {
    const ConstTensorView x = random({7, d}, DType::f32, 1), rows = list({6, 0, 3});
    const ConstTensorView gamma = random({d}, DType::f32, 2), beta = random({d}, DType::f32, 3);
    const TensorView input_rows = output({3, d}), expected = output({3, d}, act());
    const TensorView mean = output({3}), rstd = output({3});
    ops().gather_rows(stream(), x, rows, input_rows);
    ops().layer_norm(stream(), input_rows, gamma, beta, kEps, expected, mean, rstd);
    const TensorView gathered = output({3, d}), y = output({3, d}, act()), again = output({3, d}, act());
    const TensorView mean2 = output({3}), rstd2 = output({3});
    ops().gather_layer_norm(stream(), x, rows, gamma, beta, kEps, gathered, y, mean2, rstd2);
    ops().gather_layer_norm(stream(), x, rows, gamma, beta, kEps, {}, again, {}, {});
    EXPECT_EQ(values_of(gathered), values_of(input_rows)) << d;
    EXPECT_EQ(values_of(y), values_of(expected)) << d;
    EXPECT_EQ(values_of(again), values_of(expected)) << d;
    EXPECT_EQ(values_of(mean2), values_of(mean)) << d;
    EXPECT_EQ(values_of(rstd2), values_of(rstd)) << d;
  }
  const TensorView x = zeros({4, 8}), y = zeros({2, 8}, act()), gamma = zeros({8});
  EXPECT_THROW(ops().gather_layer_norm(stream(), x, {}, gamma, gamma, kEps, {}, y, {}, {}), InternalError);
  EXPECT_THROW(ops().gather_layer_norm(stream(), x, list({1, 2, 3}), gamma, gamma, kEps, {}, y, {}, {}),
               InternalError);
}

TEST_P(FusedTest, ResidualNormHasTheBitsOfBoth) {
  for (const int64_t d : {1, 8, 37, 384, 2600}) {
    for (const bool scaled : {false, true}) {
      const ConstTensorView x = random({5, d}, DType::f32, 4), branch = random({5, d}, act(), 5);
      const ConstTensorView factors = scaled ? random({d}, DType::f32, 6) : ConstTensorView{};
      const ConstTensorView gamma = random({d}, DType::f32, 7), beta = random({d}, DType::f32, 8);
      const TensorView expected_sum = random_inout({5, d}, DType::f32, 4), expected = output({5, d}, act());
      const TensorView mean = output({5}), rstd = output({5}), mean2 = output({5}), rstd2 = output({5});
      ops().scaled_index_add(stream(), expected_sum, branch, factors, 1, {});
      ops().layer_norm(stream(), expected_sum, gamma, beta, kEps, expected, mean, rstd);
      const TensorView sum = output({5, d}), y = output({5, d}, act());
      ops().residual_layer_norm(stream(), x, branch, factors, gamma, beta, kEps, sum, y, mean2, rstd2);
      EXPECT_EQ(values_of(sum), values_of(expected_sum)) << d;
      EXPECT_EQ(values_of(y), values_of(expected)) << d;
      EXPECT_EQ(values_of(mean2), values_of(mean)) << d;
      EXPECT_EQ(values_of(rstd2), values_of(rstd)) << d;
      const Values ones(at(d), 1.0);
      expect_close(y,
                   norm_of_sum(values_of(x), values_of(branch), scaled ? values_of(factors) : ones,
                               values_of(gamma), values_of(beta), static_cast<double>(kEps)),
                   std::max(tolerance() * 2, 1e-5), "y");
      const TensorView here = random_inout({5, d}, DType::f32, 4), again = output({5, d}, act());
      ops().residual_layer_norm(stream(), here, branch, factors, gamma, beta, kEps, here, again, {}, {});
      EXPECT_EQ(values_of(here), values_of(expected_sum)) << d;
      EXPECT_EQ(values_of(again), values_of(expected)) << d;
    }
  }
  const TensorView x = zeros({2, 8}), y = zeros({2, 8}, act()), gamma = zeros({8}), small = zeros({2, 7});
  EXPECT_THROW(ops().residual_layer_norm(stream(), x, y, {}, gamma, gamma, kEps, small, y, {}, {}),
               InternalError);
  EXPECT_THROW(ops().residual_layer_norm(stream(), x, y, zeros({7}), gamma, gamma, kEps, x, y, {}, {}),
               InternalError);
}

TEST_P(FusedTest, ResidualNormBackwardIsTheDerivative) {
  const int64_t rows = 3;
  for (const int64_t d : {8, 21}) {
    const ConstTensorView x = random({rows, d}, DType::f32, 9), branch = random({rows, d}, act(), 10),
                          factors = random({d}, DType::f32, 11), gamma = random({d}, DType::f32, 12),
                          beta = random({d}, DType::f32, 13), dy = random({rows, d}, act(), 14);
    const TensorView sum = output({rows, d}), y = output({rows, d}, act());
    const TensorView mean = output({rows}), rstd = output({rows});
    ops().residual_layer_norm(stream(), x, branch, factors, gamma, beta, kEps, sum, y, mean, rstd);
    const TensorView dx = random_inout({rows, d}, DType::f32, 15), dbranch = output({rows, d}, act()),
                     d_factors = random_inout({d}, DType::f32, 16), dgamma = zeros({d}), dbeta = zeros({d});
    const Values xs = values_of(x), bs = values_of(branch), fs = values_of(factors), gs = values_of(gamma),
                 zs = values_of(beta), g = values_of(dy), around = values_of(dx),
                 before = values_of(d_factors);
    ops().residual_layer_norm_backward(stream(), dy, sum, branch, factors, gamma, mean, rstd, dx, dbranch,
                                       d_factors, dgamma, dbeta);
    // What the norm's output and the sum's other readers make of x, the branch and the factors.
    const auto loss = [&](const Values& a, const Values& b, const Values& f) {
      double total = dot(g, norm_of_sum(a, b, f, gs, zs, static_cast<double>(kEps)));
      for (size_t i = 0; i < a.size(); ++i) total += around[i] * (a[i] + f[i % at(d)] * b[i]);
      return total;
    };
    expect_close(dx, numeric_gradient([&](const Values& v) { return loss(v, bs, fs); }, xs), 1e-5, "dx");
    expect_close(dbranch, numeric_gradient([&](const Values& v) { return loss(xs, v, fs); }, bs),
                 std::max(tolerance(), 1e-5), "dbranch");
    expect_close(d_factors,
                 add(numeric_gradient([&](const Values& v) { return loss(xs, bs, v); }, fs), before), 1e-5,
                 "gradient of the layer scale");
  }
}

/// Over more rows than a block or a chunk has, and with columns of all kinds.
TEST_P(FusedTest, ResidualNormBackwardIsThatOfBoth) {
  for (const auto& [rows, d] : {std::pair<int64_t, int64_t>{150, 40}, {5, 301}, {6, 2600}}) {
    const ConstTensorView sum = random({rows, d}, DType::f32, 17), branch = random({rows, d}, act(), 18),
                          factors = random({d}, DType::f32, 19), gamma = random({d}, DType::f32, 20),
                          dy = random({rows, d}, act(), 21);
    const TensorView y = output({rows, d}, act()), mean = output({rows}), rstd = output({rows});
    ops().layer_norm(stream(), sum, gamma, gamma, kEps, y, mean, rstd);
    const TensorView dx = random_inout({rows, d}, DType::f32, 22),
                     dx2 = random_inout({rows, d}, DType::f32, 22);
    const TensorView dbranch = output({rows, d}, act()), dbranch2 = output({rows, d}, act());
    const TensorView sums = zeros({3, d}), sums2 = zeros({3, d});
    const auto row = [&](const TensorView& of, int64_t r) { return of.rows(r, 1).reshaped({d}); };
    ops().layer_norm_backward(stream(), dy, sum, gamma, mean, rstd, {}, dx, row(sums, 0), row(sums, 1));
    ops().scaled_index_add_backward(stream(), dx, branch, factors, 1, {}, dbranch, row(sums, 2));
    ops().residual_layer_norm_backward(stream(), dy, sum, branch, factors, gamma, mean, rstd, dx2, dbranch2,
                                       row(sums2, 2), row(sums2, 0), row(sums2, 1));
    EXPECT_EQ(values_of(dx2), values_of(dx)) << d;
    EXPECT_EQ(values_of(dbranch2), values_of(dbranch)) << d;
    expect_close(sums2, values_of(sums), 4e-6, "sums");
    ops().residual_layer_norm_backward(stream(), dy, sum, branch, {}, gamma, mean, rstd, dx2, dbranch2, {},
                                       row(sums2, 0), row(sums2, 1));
    expect_close(dbranch2, rounded(values_of(dx2), act()), 0, "without factors");
  }
}

TEST_P(FusedTest, NormBackwardToRowsOfAList) {
  for (const int64_t d : {24, 37}) {
    const std::vector<int64_t> chosen = {5, 0, 2};
    const ConstTensorView x = random({3, d}, DType::f32, 23), dy = random({3, d}, act(), 24),
                          gamma = random({d}, DType::f32, 25);
    const TensorView y = output({3, d}, act()), mean = output({3}), rstd = output({3});
    ops().layer_norm(stream(), x, gamma, gamma, kEps, y, mean, rstd);
    const TensorView alone = zeros({3, d}), dx = random_inout({6, d}, DType::f32, 26);
    const TensorView dgamma = zeros({d}), dbeta = zeros({d}), dgamma2 = zeros({d}), dbeta2 = zeros({d});
    Values expected = values_of(dx);
    ops().layer_norm_backward(stream(), dy, x, gamma, mean, rstd, {}, alone, dgamma, dbeta);
    ops().layer_norm_backward(stream(), dy, x, gamma, mean, rstd, list(chosen), dx, dgamma2, dbeta2);
    const Values terms = values_of(alone);
    for (size_t i = 0; i < terms.size(); ++i) expected[at(chosen[i / at(d)] * d) + i % at(d)] += terms[i];
    expect_close(dx, expected, 1e-6, "dx");
    EXPECT_EQ(values_of(dgamma2), values_of(dgamma));
    EXPECT_EQ(values_of(dbeta2), values_of(dbeta));
  }
}

TEST_P(FusedTest, GeluBackwardWithTheBias) {
  for (const auto& [rows, d] : {std::pair<int64_t, int64_t>{1, 1}, {5, 37}, {300, 48}, {9001, 8}}) {
    const ConstTensorView pre = random({rows, d}, act(), 27, 2), dy = random({rows, d}, act(), 28);
    const TensorView alone = output({rows, d}, act()), dx = output({rows, d}, act());
    const TensorView db = random_inout({d}, DType::f32, 29);
    Values expected = values_of(db);
    ops().gelu_backward(stream(), dy, pre, alone, {});
    ops().gelu_backward(stream(), dy, pre, dx, db);
    const Values gradient = values_of(alone);
    EXPECT_EQ(values_of(dx), gradient) << d;
    for (size_t i = 0; i < gradient.size(); ++i) expected[i % at(d)] += gradient[i];
    const Values got = values_of(db);
    for (size_t c = 0; c < got.size(); ++c)
      EXPECT_NEAR(got[c], expected[c], 1e-6 * static_cast<double>(rows)) << c;
  }
  const TensorView x = zeros({3, 8}, act());
  EXPECT_THROW(ops().gelu_backward(stream(), x, x, x, zeros({7})), InternalError);
}

TEST_P(FusedTest, AdamWWithTheAverageHasTheBitsOfBoth) {
  if (act() != DType::f32) GTEST_SKIP() << "all in f32";
  Backend::AdamW settings{0.01f, 0.9f, 0.95f, 1e-8f, 0.1f, 2};
  settings.momentum = 0.992f;
  for (const int64_t n : {0, 1, 19, 40000}) {
    for (const float apply : {1.0f, 0.0f}) {
      const ConstTensorView g = random({n}, DType::f32, 30);
      std::array<TensorView, 4> one, both;  // w, m, v, average
      for (auto* state : {&one, &both})
        for (size_t i = 0; i < 4; ++i) {
          Tensor start = random_tensor({n}, DType::f32, 31 + i);
          if (i == 2)
            for (float& second : start.f32()) second *= second;
          (*state)[i] = inout(start);
        }
      ops().adamw(stream(), one[0], g, one[1], one[2], settings, scalar(0.5f), scalar(apply), {});
      ops().ema(stream(), one[3], one[0], settings.momentum, scalar(apply));
      ops().adamw(stream(), both[0], g, both[1], both[2], settings, scalar(0.5f), scalar(apply), both[3]);
      for (size_t i = 0; i < 4; ++i) EXPECT_EQ(values_of(both[i]), values_of(one[i])) << n << ' ' << i;
    }
  }
  const TensorView a = zeros({4}), b = zeros({5});
  EXPECT_THROW(ops().adamw(stream(), a, a, a, a, {}, scalar(1), scalar(1), b), InternalError);
}

}  // namespace
}  // namespace dino::ops::testing
