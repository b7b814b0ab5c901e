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
    const TensorView logits = random_inout({rows, k}, DType::f32, 1);
    const ConstTensorView targets = input(positive({rows, k}, 2));  // not normalised: mass is in the gradient
    const ConstTensorView weight = random({rows}, DType::f32, 3);
    const Values s = values_of(logits), t = values_of(targets), w = values_of(weight);
    const TensorView loss = output({rows}), again = output({rows});
    ops().cross_entropy(stream(), logits, targets, static_cast<float>(temperature), {}, loss);
    expect_close(loss, cross_entropy(s, t, k, temperature), 3e-6, "loss");
    expect_close(logits, s, 0, "no gradient without weights");
    ops().cross_entropy(stream(), logits, targets, static_cast<float>(temperature), weight, again);
    expect_close(again, cross_entropy(s, t, k, temperature), 3e-6, "loss");
    expect_close(
        logits,
        numeric_gradient([&](const Values& v) { return dot(w, cross_entropy(v, t, k, temperature)); }, s),
        1e-5, "gradient");
  }
}

TEST_P(LossesTest, CrossEntropyOfLargeLogitsIsFinite) {
  Tensor start({1, 20}), target({1, 20});
  start.as<float>()[3] = 1000;
  start.as<float>()[4] = -1000;
  target.as<float>()[3] = 1;
  const TensorView logits = inout(start), loss = output({1});
  ops().cross_entropy(stream(), logits, input(target), 0.1f, scalar(1), loss);
  EXPECT_NEAR(values_of(loss)[0], 0, 1e-6);
  for (const double g : values_of(logits)) EXPECT_NEAR(g, 0, 1e-6);
}

TEST_P(LossesTest, ExpRows) {
  for (const int64_t k : kWidths) {
    const int64_t rows = 5;
    const TensorView x = random_inout({rows, k}, DType::f32, 4, 20), maxima = output({rows});
    const Values before = values_of(x);
    ops().exp_rows(stream(), x, 0.75f, maxima);
    const Values got = values_of(x), tops = values_of(maxima);
    for (size_t r = 0; r < at(rows); ++r) {
      const auto row = before.begin() + static_cast<int64_t>(r) * k;
      EXPECT_EQ(tops[r], *std::max_element(row, row + k));
      for (size_t c = 0; c < at(k); ++c) {
        const double expected = std::exp((before[r * at(k) + c] - tops[r]) / 0.75);
        // 1e-7 times the size of the argument; 0 below 2^-126
        ASSERT_NEAR(got[r * at(k) + c], expected, 1e-5 * expected + 1.2e-38);
      }
    }
  }
  const TensorView none = output({0, 5}), no_maxima = output({0});
  ops().exp_rows(stream(), none, 0.75f, no_maxima);
}

/// What Sinkhorn must notice stays NaN: a NaN wherever it lies, an infinite maximum, a row of nothing.
TEST_P(LossesTest, ExpRowsKeepsNan) {
  const float nan = std::nanf("");
  const int64_t k = 37;
  for (const int64_t where : {0, 7, 36}) {
    Tensor start = random_tensor({4, k}, DType::f32, 5);
    float* rows = start.as<float>();
    rows[where] = nan;
    rows[k + where] = HUGE_VALF;
    rows[2 * k + where] = -HUGE_VALF;
    std::fill_n(rows + 3 * k, k, -HUGE_VALF);
    const TensorView x = inout(start), maxima = output({4});
    ops().exp_rows(stream(), x, 0.1f, maxima);
    const Values got = values_of(x), tops = values_of(maxima);
    EXPECT_TRUE(std::isnan(got[at(where)]));
    EXPECT_TRUE(std::isfinite(tops[0]));
    EXPECT_EQ(std::count_if(got.begin(), got.begin() + k, [](double v) { return std::isnan(v); }), 1);
    EXPECT_EQ(tops[1], HUGE_VAL);
    EXPECT_TRUE(std::isnan(got[at(k + where)]));
    EXPECT_EQ(got[at(2 * k + where)], 0);
    EXPECT_TRUE(std::isnan(got[at(3 * k + where)]));
  }
}

TEST_P(LossesTest, ExpRelative) {
  for (const int64_t n : {0, 1, 37, 3000}) {
    const TensorView x = random_inout({n}, DType::f32, 4, 20);
    Values expected = values_of(x);
    for (double& v : expected) v = std::exp((v - 0.5) / 0.75);
    ops().exp_relative(stream(), x, scalar(0.5f), 0.75f);
    const Values got = values_of(x);
    for (size_t i = 0; i < got.size(); ++i) {
      if (expected[i] > 3.41e38)
        ASSERT_EQ(got[i], HUGE_VAL) << i;
      else
        ASSERT_NEAR(got[i], expected[i], 6.1e-8 * expected[i] + 1e-45) << i;
    }
  }
  const TensorView edge = inout(tensor_of<float>({-HUGE_VALF, HUGE_VALF, std::nanf(""), 0.0f, 88.5f, -100}));
  ops().exp_relative(stream(), edge, scalar(0), 1);
  const Values got = values_of(edge);
  EXPECT_EQ(got[0], 0);
  EXPECT_EQ(got[1], HUGE_VAL);
  EXPECT_TRUE(std::isnan(got[2]));
  EXPECT_EQ(got[3], 1);
  EXPECT_NEAR(got[4] / std::exp(88.5), 1, 1e-7);
  EXPECT_NEAR(got[5], std::exp(-100.0), 1e-45);  // a denormal
}

TEST_P(LossesTest, ColumnSumsAndProducts) {
  for (const int64_t k : kWidths) {
    const int64_t rows = 70;
    const TensorView x = random_inout({rows, k}, DType::f32, 5);
    const ConstTensorView v = random({rows}, DType::f32, 6), u = random({k}, DType::f32, 7);
    const Values xs = values_of(x), vs = values_of(v), us = values_of(u);
    const TensorView sums = random_inout({k}, DType::f32, 8), plain = zeros({k}), product = output({rows});
    Values weighted = values_of(sums), unweighted(at(k)), products(at(rows)), scaled(xs.size());
    for (size_t i = 0; i < xs.size(); ++i) {
      const size_t r = i / at(k), c = i % at(k);
      weighted[c] += xs[i] * vs[r];
      unweighted[c] += xs[i];
      products[r] += xs[i] * us[c];
      scaled[i] = xs[i] * vs[r] * us[c];
    }
    ops().weighted_column_sums(stream(), x, v, sums);
    ops().weighted_column_sums(stream(), x, {}, plain);
    ops().matrix_vector(stream(), x, u, product);
    ops().scale_rows_columns(stream(), x, v, u);
    expect_close(sums, weighted, 5e-6, "weighted");
    expect_close(plain, unweighted, 5e-6, "unweighted");
    expect_close(product, products, 5e-6, "matrix times vector");
    expect_close(x, scaled, 1e-6, "scaled");
  }
}

TEST_P(LossesTest, SoftmaxCentred) {
  for (const int64_t k : kWidths) {
    const Tensor start = random_tensor({4, k}, DType::f32, 9);
    const ConstTensorView centre = random({k}, DType::f32, 10);
    const Values shift = values_of(centre);
    for (const bool centred : {false, true}) {
      const TensorView x = inout(start);
      Values expected = values_of(x);
      for (size_t begin = 0; begin < expected.size(); begin += at(k)) {
        double sum = 0;
        for (size_t c = 0; c < at(k); ++c)
          sum += expected[begin + c] = std::exp((expected[begin + c] - (centred ? shift[c] : 0)) / 0.07);
        for (size_t c = 0; c < at(k); ++c) expected[begin + c] /= sum;
      }
      ops().softmax_centred(stream(), x, centred ? centre : ConstTensorView{}, 0.07f);
      expect_close(x, expected, 2e-5, "softmax");
    }
  }
}

/// Wider than what a core's cache or a multiprocessor's shared memory holds of a row.
TEST_P(LossesTest, WideRows) {
  const double temperature = 0.5;
  // Of two rows, several blocks of a GPU share each; of three, each has one.
  for (const auto& [rows, k] : {std::pair<int64_t, int64_t>{2, 70000}, {2, 70003}, {3, 70003}}) {
    const ConstTensorView targets = input(positive({rows, k}, 2)), weight = random({rows}, DType::f32, 3),
                          u = random({k}, DType::f32, 7);
    const Tensor start = random_tensor({rows, k}, DType::f32, 1);
    const TensorView logits = inout(start), exps = inout(start), shares = inout(start);
    const TensorView loss = output({rows}), maxima = output({rows}), product = output({rows});
    const Values s = values_of(logits), t = values_of(targets), w = values_of(weight), us = values_of(u);
    Values gradient(s.size()), of_top(s.size()), softmax(s.size()), products(at(rows)), tops;
    for (size_t begin = 0; begin < s.size(); begin += at(k)) {
      const auto row = s.begin() + static_cast<int64_t>(begin);
      const double top = *std::max_element(row, row + k);
      double exp_sum = 0, shifted_sum = 0, mass = 0;
      for (size_t i = begin; i < begin + at(k); ++i) {
        exp_sum += of_top[i] = std::exp((s[i] - top) / temperature);
        shifted_sum += softmax[i] = std::exp((s[i] - us[i - begin]) / temperature);
        mass += t[i];
        products[begin / at(k)] += s[i] * us[i - begin];
      }
      for (size_t i = begin; i < begin + at(k); ++i) {
        gradient[i] = w[begin / at(k)] / temperature * (of_top[i] / exp_sum * mass - t[i]);
        softmax[i] /= shifted_sum;
      }
      tops.push_back(top);
    }
    ops().matrix_vector(stream(), logits, u, product);
    const TensorView kept = inout(start), alone = output({rows});
    ops().cross_entropy(stream(), kept, targets, static_cast<float>(temperature), {}, alone);
    EXPECT_EQ(values_of(kept), s) << "without a gradient";
    ops().cross_entropy(stream(), logits, targets, static_cast<float>(temperature), weight, loss);
    ops().exp_rows(stream(), exps, static_cast<float>(temperature), maxima);
    ops().softmax_centred(stream(), shares, u, static_cast<float>(temperature));
    expect_close(loss, cross_entropy(s, t, k, temperature), 1e-5, "loss");
    EXPECT_EQ(values_of(alone), values_of(loss));
    expect_close(logits, gradient, 1e-5, "gradient");
    expect_close(maxima, tops, 0, "maxima");
    expect_close(exps, of_top, 1e-6, "exponentials");
    expect_close(shares, softmax, 2e-5, "softmax");
    expect_close(product, products, 2e-5, "matrix times vector");
  }
}

}  // namespace
}  // namespace dino::ops::testing
