// SPDX-License-Identifier: Apache-2.0
#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class PointwiseTest : public OperatorTest {};
INSTANTIATE_TEST_SUITE_P(Backends, PointwiseTest, ::testing::ValuesIn(variants()), variant_name);

TEST_P(PointwiseTest, GeluBackward) {
  for (const int64_t n : {1, 16, 37, 5000}) {
    const Tensor pre = random_tensor({n}, act(), 1, 2);
    Tensor dy = random_tensor({n}, act(), 2);
    const Values x = values_of(pre), g = values_of(dy);
    Values expected(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const auto gelu = [](double v) { return 0.5 * v * std::erfc(-v / std::sqrt(2.0)); };
      expected[i] = g[i] * (gelu(x[i] + 1e-5) - gelu(x[i] - 1e-5)) / 2e-5;
    }
    Tensor dx({n}, act());
    ops().gelu_backward(dy, pre, dx);
    expect_close(dx, expected, tolerance(), "gelu");
    ops().gelu_backward(dy, pre, dy);
    expect_close(dy, expected, tolerance(), "gelu in place");
  }
}

Values swiglu(const Values& x, int64_t rows, int64_t h) {
  Values y(at(rows * h));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < h; ++c) {
      const double a = x[at(r * 2 * h + c)];
      y[at(r * h + c)] = a / (1 + std::exp(-a)) * x[at(r * 2 * h + h + c)];
    }
  return y;
}

TEST_P(PointwiseTest, SwigluAndItsDerivative) {
  for (const int64_t h : {1, 8, 37}) {
    const int64_t rows = 5;
    const Tensor x = random_tensor({rows, 2 * h}, act(), 3, 2);
    const Tensor dy = random_tensor({rows, h}, act(), 4);
    Tensor y({rows, h}, act()), dx({rows, 2 * h}, act());
    ops().swiglu(x, y);
    expect_close(y, swiglu(values_of(x), rows, h), tolerance(), "swiglu");
    ops().swiglu_backward(dy, x, dx);
    const Values g = values_of(dy);
    expect_close(dx,
                 numeric_gradient([&](const Values& v) { return dot(g, swiglu(v, rows, h)); }, values_of(x)),
                 tolerance(), "swiglu gradient");
  }
}

Values index_add(Values out, const Values& branch, const Values& gamma, double scale,
                 const std::vector<int64_t>& rows, int64_t d) {
  const auto count = static_cast<int64_t>(branch.size()) / d;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < d; ++c)
      out[at((rows.empty() ? i : rows[at(i)]) * d + c)] +=
          scale * (gamma.empty() ? 1 : gamma[at(c)]) * branch[at(i * d + c)];
  return out;
}

TEST_P(PointwiseTest, ScaledIndexAddAndItsDerivative) {
  const std::vector<std::vector<int64_t>> choices = {{}, {6, 0, 3}};
  for (const int64_t d : {5, 32, 41}) {
    for (const std::vector<int64_t>& rows : choices) {
      const int64_t count = rows.empty() ? 7 : 3;
      const Tensor branch = random_tensor({count, d}, act(), 5);
      const Tensor gamma = random_tensor({d}, DType::f32, 6);
      const Tensor dout = random_tensor({7, d}, DType::f32, 7);
      const Values b = values_of(branch), s = values_of(gamma), g = values_of(dout);
      Tensor out = random_tensor({7, d}, DType::f32, 8);
      const Values before = values_of(out);
      ops().scaled_index_add(out, branch, gamma, 1.5f, rows);
      expect_close(out, index_add(before, b, s, 1.5, rows, d), 4e-6, "with gamma");
      out = random_tensor({7, d}, DType::f32, 8);
      ops().scaled_index_add(out, branch, {}, 1.5f, rows);
      expect_close(out, index_add(before, b, {}, 1.5, rows, d), 4e-6, "without gamma");

      Tensor dbranch({count, d}, act());
      Tensor dgamma = random_tensor({d}, DType::f32, 9);
      const Values dgamma_before = values_of(dgamma);
      ops().scaled_index_add_backward(dout, branch, gamma, 1.5f, rows, dbranch, dgamma);
      const auto loss = [&](const Values& bb, const Values& ss) {
        return dot(g, index_add(before, bb, ss, 1.5, rows, d));
      };
      expect_close(dbranch, numeric_gradient([&](const Values& v) { return loss(v, s); }, b), tolerance(),
                   "dbranch");
      expect_close(dgamma,
                   add(numeric_gradient([&](const Values& v) { return loss(b, v); }, s), dgamma_before), 4e-6,
                   "dgamma");
      ops().scaled_index_add_backward(dout, branch, {}, 1.5f, rows, dbranch, {});
      expect_close(dbranch, numeric_gradient([&](const Values& v) { return loss(v, {}); }, b), tolerance(),
                   "dbranch without gamma");
    }
  }
}

TEST_P(PointwiseTest, GatherAndScatterRows) {
  const std::vector<int64_t> rows = {3, 0, 3, 4, 1, 3};
  for (const int64_t d : {1, 24, 200}) {
    const Tensor x = random_tensor({5, d}, act(), 10);
    for (const DType to : {DType::f32, DType::bf16}) {
      Tensor out({6, d}, to);
      ops().gather_rows(x, rows, out);
      Values expected;
      for (const int64_t row : rows)
        for (int64_t c = 0; c < d; ++c) expected.push_back(values_of(x)[at(row * d + c)]);
      expect_close(out, rounded(expected, to), 0, "gathered");
    }
    const Tensor y = random_tensor({6, d}, act(), 11);
    Tensor out = random_tensor({5, d}, DType::f32, 12);
    Values expected = values_of(out);
    for (size_t i = 0; i < rows.size(); ++i)
      for (int64_t c = 0; c < d; ++c) expected[at(rows[i] * d + c)] += values_of(y)[i * at(d) + at(c)];
    ops().scatter_add_rows(y, rows, out);
    expect_close(out, expected, 4e-6, "scattered");
    Tensor none({0, d}, act());
    ops().gather_rows(x, {}, none);
    ops().scatter_add_rows(none, {}, out);
    expect_close(out, expected, 4e-6, "no rows");
    const std::vector<int64_t> outside = {5};
    Tensor one({1, d}, act());
    EXPECT_THROW(ops().gather_rows(x, outside, one), InternalError);
  }
}

TEST_P(PointwiseTest, ConvertRoundsToNearestEven) {
  for (const int64_t n : {1, 33, 9001}) {
    const Tensor x = random_tensor({n}, act(), 13, 100);
    for (const DType to : {DType::f32, DType::bf16}) {
      Tensor y({n}, to);
      ops().convert(x, y);
      expect_close(y, rounded(values_of(x), to), 0, "converted");
    }
  }
  Tensor special({20});
  const float nan = std::nanf("");
  const float inf = HUGE_VALF;
  for (int64_t i = 0; i < 20; ++i)
    special.as<float>()[i] = std::vector<float>{nan, inf, -inf, 0.0f, 1.00390625f}[at(i % 5)];
  Tensor half({20}, DType::bf16);
  ops().convert(special, half);
  for (int64_t i = 0; i < 20; i += 5) {
    const bf16* got = half.as<bf16>() + i;
    EXPECT_TRUE(std::isnan(static_cast<float>(got[0])));
    EXPECT_EQ(static_cast<float>(got[1]), inf);
    EXPECT_EQ(static_cast<float>(got[2]), -inf);
    EXPECT_EQ(static_cast<float>(got[3]), 0.0f);
    EXPECT_EQ(static_cast<float>(got[4]), 1.0f);  // halfway: to even
  }
}

TEST_P(PointwiseTest, Axpy) {
  for (const int64_t n : {1, 19, 20000}) {
    const Tensor x = random_tensor({n}, DType::f32, 14);
    Tensor y = random_tensor({n}, DType::f32, 15);
    const Values xs = values_of(x);
    Values expected = values_of(y);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] -= 0.25 * xs[i];
    ops().axpy(-0.25f, x, y);
    expect_close(y, expected, 4e-6, "axpy");
  }
}

TEST_P(PointwiseTest, PatchifyFollowsTheConvolutionLayout) {
  const int64_t batch = 2, channels = 3, height = 6, width = 9, p = 3;
  const Tensor images = random_tensor({batch, channels, height, width}, DType::f32, 16);
  Tensor patches({batch * 2 * 3, channels * p * p}, act());
  ops().patchify(images, p, patches);
  Values expected;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t py = 0; py < 2; ++py)
      for (int64_t px = 0; px < 3; ++px)
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t y = 0; y < p; ++y)
            for (int64_t x = 0; x < p; ++x)
              expected.push_back(static_cast<double>(
                  images.as<float>()[((b * channels + c) * height + py * p + y) * width + px * p + x]));
  expect_close(patches, rounded(expected, act()), 0, "patches");
  Tensor back({batch, channels, height, width});
  ops().patchify_backward(patches, p, back);
  expect_close(back, rounded(values_of(images), act()), 0, "images again");
  EXPECT_THROW(ops().patchify(images, 4, patches), InternalError);
}

}  // namespace
}  // namespace dino::ops::testing
