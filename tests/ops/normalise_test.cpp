// SPDX-License-Identifier: Apache-2.0
#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class NormaliseTest : public OperatorTest {};
INSTANTIATE_TEST_SUITE_P(Backends, NormaliseTest, ::testing::ValuesIn(variants()), variant_name);

constexpr double kEps = 1e-6;

struct Statistics {
  double mean, rstd;
};

Statistics statistics(const Values& x, int64_t row, int64_t d) {
  double sum = 0, squares = 0;
  for (int64_t c = 0; c < d; ++c) sum += x[at(row * d + c)];
  const double mean = sum / static_cast<double>(d);
  for (int64_t c = 0; c < d; ++c) squares += std::pow(x[at(row * d + c)] - mean, 2);
  return {mean, 1 / std::sqrt(squares / static_cast<double>(d) + kEps)};
}

Values layer_norm(const Values& x, const Values& gamma, const Values& beta) {
  const auto d = static_cast<int64_t>(gamma.size());
  Values y(x.size());
  for (int64_t r = 0; r * d < static_cast<int64_t>(x.size()); ++r) {
    const Statistics s = statistics(x, r, d);
    for (int64_t c = 0; c < d; ++c)
      y[at(r * d + c)] = (x[at(r * d + c)] - s.mean) * s.rstd * gamma[at(c)] + beta[at(c)];
  }
  return y;
}

Tensor shifted(Tensor x, float by) {
  for (float& v : x.f32()) v += by;
  return x;
}

TEST_P(NormaliseTest, LayerNorm) {
  for (const int64_t d : {1, 8, 37, 384}) {
    for (const int64_t rows : {1, 5}) {
      const ConstTensorView x = input(shifted(random_tensor({rows, d}, DType::f32, 1), 3));
      const ConstTensorView gamma = random({d}, DType::f32, 2), beta = random({d}, DType::f32, 3);
      const TensorView y = output({rows, d}, act()), mean = output({rows}), rstd = output({rows});
      ops().layer_norm(stream(), x, gamma, beta, static_cast<float>(kEps), y, mean, rstd);
      const Values expected = layer_norm(values_of(x), values_of(gamma), values_of(beta));
      expect_close(y, expected, tolerance() * 2, "y");
      Values means, rstds;
      for (int64_t r = 0; r < rows; ++r) {
        const Statistics s = statistics(values_of(x), r, d);
        means.push_back(s.mean), rstds.push_back(s.rstd);
      }
      expect_close(mean, means, 2e-6, "mean");
      expect_close(rstd, rstds, 2e-5, "rstd");
      const TensorView again = output({rows, d}, act());
      ops().layer_norm(stream(), x, gamma, beta, static_cast<float>(kEps), again, {}, {});
      expect_close(again, values_of(y), 0, "without statistics");
    }
  }
}

TEST_P(NormaliseTest, LayerNormBackwardIsTheDerivative) {
  for (const int64_t d : {8, 37}) {
    const int64_t rows = 3;
    const ConstTensorView x = input(shifted(random_tensor({rows, d}, DType::f32, 4), 1));
    const ConstTensorView gamma = random({d}, DType::f32, 5), beta = random({d}, DType::f32, 6);
    const ConstTensorView dy = random({rows, d}, act(), 7);
    const TensorView y = output({rows, d}, act()), mean = output({rows}), rstd = output({rows});
    ops().layer_norm(stream(), x, gamma, beta, static_cast<float>(kEps), y, mean, rstd);
    const TensorView dx = random_inout({rows, d}, DType::f32, 8), dgamma = random_inout({d}, DType::f32, 9),
                     dbeta = random_inout({d}, DType::f32, 10);
    const Values xs = values_of(x), gs = values_of(gamma), bs = values_of(beta), g = values_of(dy);
    const Values dx0 = values_of(dx), dgamma0 = values_of(dgamma), dbeta0 = values_of(dbeta);
    ops().layer_norm_backward(stream(), dy, x, gamma, mean, rstd, {}, dx, dgamma, dbeta);
    const auto gradient = [&](const auto& f, const Values& v) { return numeric_gradient(f, v); };
    expect_close(dx, add(gradient([&](const Values& v) { return dot(g, layer_norm(v, gs, bs)); }, xs), dx0),
                 5e-6, "dx");
    expect_close(dgamma,
                 add(gradient([&](const Values& v) { return dot(g, layer_norm(xs, v, bs)); }, gs), dgamma0),
                 5e-6, "dgamma");
    expect_close(dbeta,
                 add(gradient([&](const Values& v) { return dot(g, layer_norm(xs, gs, v)); }, bs), dbeta0),
                 5e-6, "dbeta");
  }
}

/// More rows than one chunk of the column sums, and the same bits for any number of threads.
TEST_P(NormaliseTest, LayerNormGradientsDoNotDependOnThreads) {
  const int64_t rows = 300, d = 72;
  const ConstTensorView x = random({rows, d}, DType::f32, 11), gamma = random({d}, DType::f32, 12);
  const ConstTensorView dy = random({rows, d}, act(), 13);
  const TensorView y = output({rows, d}, act()), mean = output({rows}), rstd = output({rows});
  ops().layer_norm(stream(), x, gamma, gamma, static_cast<float>(kEps), y, mean, rstd);
  Values before;
  for (const int threads : {1, 2, 3}) {
    set_threads(threads);
    const TensorView dx = zeros({rows, d}), dgamma = zeros({d}), dbeta = zeros({d});
    ops().layer_norm_backward(stream(), dy, x, gamma, mean, rstd, {}, dx, dgamma, dbeta);
    Values expected(at(d)), got = values_of(dgamma);
    const Values xs = values_of(x), g = values_of(dy);
    for (int64_t r = 0; r < rows; ++r) {
      const Statistics s = statistics(xs, r, d);
      for (int64_t c = 0; c < d; ++c)
        expected[at(c)] += g[at(r * d + c)] * (xs[at(r * d + c)] - s.mean) * s.rstd;
    }
    expect_close(dgamma, expected, 5e-6, "dgamma");
    for (const double v : values_of(dbeta)) got.push_back(v);
    if (before.empty()) before = got;
    EXPECT_EQ(got, before) << threads << " threads";
  }
  set_threads(1);
}

/// Rows of more columns than a block of threads holds.
TEST_P(NormaliseTest, WideRows) {
  for (const int64_t d : {301, 2600, 6150}) {
    const int64_t rows = 6;
    const ConstTensorView x = input(shifted(random_tensor({rows, d}, DType::f32, 23), 2));
    const ConstTensorView gamma = random({d}, DType::f32, 24), beta = random({d}, DType::f32, 25);
    const ConstTensorView dy = random({rows, d}, act(), 26);
    const Values xs = values_of(x), gs = values_of(gamma), g = values_of(dy);
    const TensorView y = output({rows, d}, act()), mean = output({rows}), rstd = output({rows});
    ops().layer_norm(stream(), x, gamma, beta, static_cast<float>(kEps), y, mean, rstd);
    expect_close(y, layer_norm(xs, gs, values_of(beta)), tolerance() * 2, "y");
    const TensorView dx = random_inout({rows, d}, DType::f32, 27), dgamma = random_inout({d}, DType::f32, 28),
                     dbeta = random_inout({d}, DType::f32, 29);
    Values to_x = values_of(dx), to_gamma = values_of(dgamma), to_beta = values_of(dbeta);
    for (int64_t r = 0; r < rows; ++r) {
      const Statistics s = statistics(xs, r, d);
      const auto hat = [&](size_t i) { return (xs[i] - s.mean) * s.rstd; };
      double sum = 0, along = 0;
      for (size_t c = 0; c < at(d); ++c) {
        const size_t i = at(r * d) + c;
        sum += g[i] * gs[c] / static_cast<double>(d);
        along += g[i] * gs[c] * hat(i) / static_cast<double>(d);
        to_gamma[c] += g[i] * hat(i);
        to_beta[c] += g[i];
      }
      for (size_t c = 0; c < at(d); ++c) {
        const size_t i = at(r * d) + c;
        to_x[i] += s.rstd * (g[i] * gs[c] - sum - hat(i) * along);
      }
    }
    ops().layer_norm_backward(stream(), dy, x, gamma, mean, rstd, {}, dx, dgamma, dbeta);
    expect_close(dx, to_x, 5e-6, "dx");
    expect_close(dgamma, to_gamma, 5e-6, "dgamma");
    expect_close(dbeta, to_beta, 5e-6, "dbeta");
  }
}

Values normalize(const Values& x, int64_t d, double eps) {
  Values y(x.size());
  for (size_t r = 0; r * at(d) < x.size(); ++r) {
    double squares = 0;
    for (size_t c = 0; c < at(d); ++c) squares += x[r * at(d) + c] * x[r * at(d) + c];
    for (size_t c = 0; c < at(d); ++c)
      y[r * at(d) + c] = x[r * at(d) + c] / std::max(std::sqrt(squares), eps);
  }
  return y;
}

TEST_P(NormaliseTest, L2NormalizeAndItsDerivative) {
  for (const int64_t d : {3, 16, 45, 160}) {
    const double eps = 0.5;  // the second row is shorter than eps: there the norm is a constant
    Tensor start = random_tensor({3, d}, DType::f32, 14);
    for (int64_t c = 0; c < d; ++c) start.as<float>()[d + c] *= 0.01f;
    const ConstTensorView x = input(start);
    const ConstTensorView dy = random({3, d}, DType::f32, 15);
    const TensorView y = output({3, d}), norm = output({3}), dx = output({3, d});
    ops().l2_normalize(stream(), x, static_cast<float>(eps), y, norm);
    expect_close(y, normalize(values_of(x), d, eps), 2e-6, "y");
    EXPECT_EQ(values_of(norm)[1], 0.5);
    ops().l2_normalize_backward(stream(), dy, y, norm, static_cast<float>(eps), dx);
    const Values g = values_of(dy);
    expect_close(
        dx, numeric_gradient([&](const Values& v) { return dot(g, normalize(v, d, eps)); }, values_of(x)),
        5e-6, "dx");
  }
}

Values weight_norm(const Values& g, const Values& v) {
  const size_t d = v.size() / g.size();
  Values w(v.size());
  for (size_t k = 0; k < g.size(); ++k) {
    double squares = 0;
    for (size_t c = 0; c < d; ++c) squares += v[k * d + c] * v[k * d + c];
    for (size_t c = 0; c < d; ++c) w[k * d + c] = g[k] * v[k * d + c] / std::sqrt(squares);
  }
  return w;
}

TEST_P(NormaliseTest, WeightNormAndItsDerivative) {
  for (const int64_t d : {1, 3, 16, 45, 264}) {
    const int64_t rows = 5;
    const ConstTensorView g = random({rows, 1}, DType::f32, 16), v = random({rows, d}, DType::f32, 17, 0.1),
                          dw = random({rows, d}, DType::f32, 18);
    const TensorView w = output({rows, d});
    ops().weight_norm(stream(), g, v, w);
    const Values gs = values_of(g), vs = values_of(v), upstream = values_of(dw);
    expect_close(w, weight_norm(gs, vs), 1e-7, "w");
    const TensorView narrow = output({rows, d}, act());
    ops().weight_norm(stream(), g, v, narrow);
    expect_close(narrow, rounded(weight_norm(gs, vs), act()), by_act(1e-7, 4e-3), "w, rounded");
    const TensorView dg = random_inout({rows, 1}, DType::f32, 19),
                     dv = random_inout({rows, d}, DType::f32, 20);
    const Values dg0 = values_of(dg), dv0 = values_of(dv);
    ops().weight_norm_backward(stream(), g, v, dw, dg, dv);
    expect_close(
        dg,
        add(numeric_gradient([&](const Values& x) { return dot(upstream, weight_norm(x, vs)); }, gs), dg0),
        1e-6, "dg");
    expect_close(
        dv,
        add(numeric_gradient([&](const Values& x) { return dot(upstream, weight_norm(gs, x)); }, vs), dv0),
        1e-6, "dv");
  }
}

/// A row's direction must survive: its elements are exact to one rounding of f32.
TEST_P(NormaliseTest, WeightNormRoundsOnce) {
  const int64_t rows = 70, d = 256;
  const ConstTensorView g = random({rows}, DType::f32, 21), v = random({rows, d}, DType::f32, 22, 1e-3);
  const TensorView w = output({rows, d});
  ops().weight_norm(stream(), g, v, w);
  const Values expected = weight_norm(values_of(g), values_of(v)), got = values_of(w);
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], 6.1e-8 * std::abs(expected[i])) << i;
  const TensorView narrow = output({rows, d - 1});
  EXPECT_THROW(ops().weight_norm(stream(), g, v, narrow), InternalError);
}

}  // namespace
}  // namespace dino::ops::testing
