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
      const Tensor x = shifted(random_tensor({rows, d}, DType::f32, 1), 3);
      const Tensor gamma = random_tensor({d}, DType::f32, 2), beta = random_tensor({d}, DType::f32, 3);
      Tensor y({rows, d}, act()), mean({rows}), rstd({rows});
      ops().layer_norm(x, gamma, beta, static_cast<float>(kEps), y, mean, rstd);
      const Values expected = layer_norm(values_of(x), values_of(gamma), values_of(beta));
      expect_close(y, expected, tolerance() * 2, "y");
      Values means, rstds;
      for (int64_t r = 0; r < rows; ++r) {
        const Statistics s = statistics(values_of(x), r, d);
        means.push_back(s.mean), rstds.push_back(s.rstd);
      }
      expect_close(mean, means, 2e-6, "mean");
      expect_close(rstd, rstds, 2e-5, "rstd");
      Tensor again({rows, d}, act());
      ops().layer_norm(x, gamma, beta, static_cast<float>(kEps), again, {}, {});
      expect_close(again, values_of(y), 0, "without statistics");
    }
  }
}

TEST_P(NormaliseTest, LayerNormBackwardIsTheDerivative) {
  for (const int64_t d : {8, 37}) {
    const int64_t rows = 3;
    const Tensor x = shifted(random_tensor({rows, d}, DType::f32, 4), 1);
    const Tensor gamma = random_tensor({d}, DType::f32, 5), beta = random_tensor({d}, DType::f32, 6);
    const Tensor dy = random_tensor({rows, d}, act(), 7);
    Tensor y({rows, d}, act()), mean({rows}), rstd({rows});
    ops().layer_norm(x, gamma, beta, static_cast<float>(kEps), y, mean, rstd);
    Tensor dx = random_tensor({rows, d}, DType::f32, 8), dgamma = random_tensor({d}, DType::f32, 9),
           dbeta = random_tensor({d}, DType::f32, 10);
    const Values xs = values_of(x), gs = values_of(gamma), bs = values_of(beta), g = values_of(dy);
    const Values dx0 = values_of(dx), dgamma0 = values_of(dgamma), dbeta0 = values_of(dbeta);
    ops().layer_norm_backward(dy, x, gamma, mean, rstd, dx, dgamma, dbeta);
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
  const Tensor x = random_tensor({rows, d}, DType::f32, 11), gamma = random_tensor({d}, DType::f32, 12);
  const Tensor dy = random_tensor({rows, d}, act(), 13);
  Tensor y({rows, d}, act()), mean({rows}), rstd({rows});
  ops().layer_norm(x, gamma, gamma, static_cast<float>(kEps), y, mean, rstd);
  Values before;
  for (const int threads : {1, 2, 3}) {
    set_threads(threads);
    Tensor dx({rows, d}), dgamma({d}), dbeta({d});
    ops().layer_norm_backward(dy, x, gamma, mean, rstd, dx, dgamma, dbeta);
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
  for (const int64_t d : {3, 16, 45}) {
    const double eps = 0.5;  // the second row is shorter than eps: there the norm is a constant
    Tensor x = random_tensor({3, d}, DType::f32, 14);
    for (int64_t c = 0; c < d; ++c) x.as<float>()[d + c] *= 0.01f;
    const Tensor dy = random_tensor({3, d}, DType::f32, 15);
    Tensor y({3, d}), norm({3}), dx({3, d});
    ops().l2_normalize(x, static_cast<float>(eps), y, norm);
    expect_close(y, normalize(values_of(x), d, eps), 2e-6, "y");
    EXPECT_EQ(norm.as<float>()[1], 0.5f);
    ops().l2_normalize_backward(dy, y, norm, static_cast<float>(eps), dx);
    const Values g = values_of(dy);
    expect_close(
        dx, numeric_gradient([&](const Values& v) { return dot(g, normalize(v, d, eps)); }, values_of(x)),
        5e-6, "dx");
  }
}

}  // namespace
}  // namespace dino::ops::testing
