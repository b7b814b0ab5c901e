// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class LossesTest : public OperatorTest {};
INSTANTIATE_TEST_SUITE_P(Backends, LossesTest, ::testing::ValuesIn(variants(false)), variant_name);

const std::vector<int64_t> kWidths = {1, 16, 37, 1029};

Tensor positive(Shape shape, uint64_t seed) {
  Tensor x = random_tensor(shape, DType::f32, seed);
  for (float& v : x.f32()) v = std::abs(v) + 0.01f;
  return x;
}

Values cross_entropy(const Values& logits, const Values& targets, int64_t k, double temperature) {
  Values loss;
  for (size_t begin = 0; begin < logits.size(); begin += at(k)) {
    double sum = 0, value = 0;
    for (size_t i = begin; i < begin + at(k); ++i) sum += std::exp(logits[i] / temperature);
    for (size_t i = begin; i < begin + at(k); ++i)
      value -= targets[i] * (logits[i] / temperature - std::log(sum));
    loss.push_back(value);
  }
  return loss;
}

TEST_P(LossesTest, CrossEntropyAndItsDerivative) {
  for (const int64_t k : kWidths) {
    const int64_t rows = 3;
    const double temperature = 0.5;
    Tensor logits = random_tensor({rows, k}, DType::f32, 1);
    const Tensor targets = positive({rows, k}, 2);  // not normalised: the mass is part of the gradient
    const Tensor weight = random_tensor({rows}, DType::f32, 3);
    const Values s = values_of(logits), t = values_of(targets), w = values_of(weight);
    Tensor loss({rows});
    ops().cross_entropy(logits, targets, static_cast<float>(temperature), {}, loss);
    expect_close(loss, cross_entropy(s, t, k, temperature), 3e-6, "loss");
    expect_close(logits, s, 0, "no gradient without weights");
    ops().cross_entropy(logits, targets, static_cast<float>(temperature), weight, loss);
    expect_close(loss, cross_entropy(s, t, k, temperature), 3e-6, "loss");
    expect_close(
        logits,
        numeric_gradient([&](const Values& v) { return dot(w, cross_entropy(v, t, k, temperature)); }, s),
        1e-5, "gradient");
  }
}

TEST_P(LossesTest, CrossEntropyOfLargeLogitsIsFinite) {
  Tensor logits({1, 20}), targets({1, 20}), weight({1}), loss({1});
  logits.as<float>()[3] = 1000;
  logits.as<float>()[4] = -1000;
  targets.as<float>()[3] = 1;
  weight.as<float>()[0] = 1;
  ops().cross_entropy(logits, targets, 0.1f, weight, loss);
  EXPECT_NEAR(loss.as<float>()[0], 0, 1e-6);
  for (const float g : logits.f32()) EXPECT_NEAR(g, 0, 1e-6);
}

TEST_P(LossesTest, ExpScaled) {
  for (const int64_t k : kWidths) {
    Tensor x = random_tensor({k}, DType::f32, 4, 20);
    Values expected = values_of(x);
    for (double& v : expected) v = std::exp((v - 0.5) / 0.75);
    ops().exp_scaled(x, 0.5f, 0.75f);
    const Values got = values_of(x);
    for (size_t i = 0; i < got.size(); ++i) {
      if (expected[i] < 1.2e-38 || expected[i] > 3.4e38) continue;
      ASSERT_NEAR(got[i], expected[i], 1e-5 * expected[i]);  // 1e-7 times the size of the argument
    }
  }
  Tensor edge({20});
  for (int64_t i = 0; i < 20; ++i)
    edge.as<float>()[i] = std::vector<float>{-HUGE_VALF, HUGE_VALF, std::nanf(""), 0.0f, 88.5f}[at(i % 5)];
  ops().exp_scaled(edge, 0, 1);
  for (int64_t i = 0; i < 20; i += 5) {
    EXPECT_EQ(edge.as<float>()[i], 0.0f);
    EXPECT_EQ(edge.as<float>()[i + 1], HUGE_VALF);
    EXPECT_TRUE(std::isnan(edge.as<float>()[i + 2]));
    EXPECT_EQ(edge.as<float>()[i + 3], 1.0f);
    EXPECT_NEAR(static_cast<double>(edge.as<float>()[i + 4]) / std::exp(88.5), 1, 1e-5);
  }
}

TEST_P(LossesTest, ColumnSumsAndProducts) {
  for (const int64_t k : kWidths) {
    const int64_t rows = 70;
    Tensor x = random_tensor({rows, k}, DType::f32, 5);
    const Tensor v = random_tensor({rows}, DType::f32, 6), u = random_tensor({k}, DType::f32, 7);
    const Values xs = values_of(x), vs = values_of(v), us = values_of(u);
    Tensor sums = random_tensor({k}, DType::f32, 8), plain({k}), product({rows});
    Values weighted = values_of(sums), unweighted(at(k)), products(at(rows)), scaled(xs.size());
    for (size_t i = 0; i < xs.size(); ++i) {
      const size_t r = i / at(k), c = i % at(k);
      weighted[c] += xs[i] * vs[r];
      unweighted[c] += xs[i];
      products[r] += xs[i] * us[c];
      scaled[i] = xs[i] * vs[r] * us[c];
    }
    ops().weighted_column_sums(x, v, sums);
    ops().weighted_column_sums(x, {}, plain);
    ops().matrix_vector(x, u, product);
    ops().scale_rows_columns(x, v, u);
    expect_close(sums, weighted, 5e-6, "weighted");
    expect_close(plain, unweighted, 5e-6, "unweighted");
    expect_close(product, products, 5e-6, "matrix times vector");
    expect_close(x, scaled, 1e-6, "scaled");
  }
}

TEST_P(LossesTest, SoftmaxCentred) {
  for (const int64_t k : kWidths) {
    const Tensor start = random_tensor({4, k}, DType::f32, 9), centre = random_tensor({k}, DType::f32, 10);
    for (const bool centred : {false, true}) {
      Tensor x = start.clone();
      Values expected = values_of(x);
      for (size_t begin = 0; begin < expected.size(); begin += at(k)) {
        double sum = 0;
        for (size_t c = 0; c < at(k); ++c) {
          const double shift = centred ? static_cast<double>(centre.as<float>()[c]) : 0;
          sum += expected[begin + c] = std::exp((expected[begin + c] - shift) / 0.07);
        }
        for (size_t c = 0; c < at(k); ++c) expected[begin + c] /= sum;
      }
      ops().softmax_centred(x, centred ? centre.view() : ConstTensorView{}, 0.07f);
      expect_close(x, expected, 2e-5, "softmax");
    }
  }
}

TEST_P(LossesTest, AdamWTakesThreeSteps) {
  for (const int64_t n : {1, 19, 40000}) {
    Tensor w = random_tensor({n}, DType::f32, 11), m({n}), v({n});
    Values ws = values_of(w), ms(at(n)), vs(at(n));
    Backend::AdamW settings{0.01f, 0.9f, 0.95f, 1e-8f, 0.1f, 0, 0.5f};
    const auto rate = static_cast<double>(settings.learning_rate);
    const auto b1 = static_cast<double>(settings.beta1), b2 = static_cast<double>(settings.beta2);
    for (int step = 1; step <= 3; ++step) {
      settings.step = step;
      const Tensor g = random_tensor({n}, DType::f32, 20 + static_cast<uint64_t>(step));
      const Values gs = values_of(g);
      ops().adamw(w.f32(), g.f32(), m.f32(), v.f32(), settings);
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

TEST_P(LossesTest, Ema) {
  for (const int64_t n : {1, 19, 40000}) {
    Tensor average = random_tensor({n}, DType::f32, 12);
    const Tensor value = random_tensor({n}, DType::f32, 13);
    Values expected = values_of(average);
    const Values vs = values_of(value);
    const auto keep = static_cast<double>(0.992f);
    for (size_t i = 0; i < vs.size(); ++i) expected[i] = keep * expected[i] + (1 - keep) * vs[i];
    ops().ema(average.f32(), value.f32(), 0.992f);
    expect_close(average, expected, 1e-6, "average");
  }
}

TEST_P(LossesTest, SumOfSquaresDoesNotDependOnThreads) {
  for (const int64_t n : {1, 17, 100003}) {
    const Tensor x = random_tensor({n}, DType::f32, 14);
    const Values xs = values_of(x);
    double first = 0;
    for (const int threads : {1, 2, 3}) {
      set_threads(threads);
      const double got = ops().sum_of_squares(x.f32());
      EXPECT_NEAR(got, dot(xs, xs), 1e-13 * dot(xs, xs));
      if (threads == 1) first = got;
      EXPECT_EQ(got, first);
    }
  }
  set_threads(1);
  EXPECT_EQ(ops().sum_of_squares({}), 0);
}

TEST_P(LossesTest, RejectsSizesThatDiffer) {
  Tensor a({4}), b({5});
  EXPECT_THROW(ops().ema(a.f32(), b.f32(), 0.5f), InternalError);
  EXPECT_THROW(ops().adamw(a.f32(), a.f32(), a.f32(), b.f32(), {}), InternalError);
}

}  // namespace
}  // namespace dino::ops::testing
