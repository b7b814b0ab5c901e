// SPDX-License-Identifier: Apache-2.0
#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class PointwiseTest : public OperatorTest {};
INSTANTIATE_TEST_SUITE_P(Backends, PointwiseTest, ::testing::ValuesIn(variants()), variant_name);

TEST_P(PointwiseTest, GeluBackward) {
  const auto gelu = [](double v) { return 0.5 * v * std::erfc(-v / std::sqrt(2.0)); };
  const auto quick = [](double v) { return v / (1 + std::exp(-1.702 * v)); };
  const auto expect = [&](const char* name, auto backward, auto activation, int64_t n) {
    const ConstTensorView pre = random({n}, act(), 1, 2);
    const TensorView dy = random_inout({n}, act(), 2);
    const Values x = values_of(pre), g = values_of(dy);
    Values expected(x.size());
    for (size_t i = 0; i < x.size(); ++i)
      expected[i] = g[i] * (activation(x[i] + 1e-5) - activation(x[i] - 1e-5)) / 2e-5;
    // Near x = -0.75 the derivative's two terms cancel: they are rounded relative to dy.
    const double cancelled = largest_magnitude(g) / std::max(largest_magnitude(expected), 1e-3);
    const double bound = tolerance() * std::max(1.0, cancelled);
    const TensorView dx = output({n}, act());
    backward(dy, pre, dx);
    expect_close(dx, expected, bound, name);
    backward(dy, pre, dy);
    expect_close(dy, expected, bound, "in place");
  };
  for (const int64_t n : {1, 16, 37, 5000}) {
    expect(
        "gelu", [&](auto dy, auto pre, auto dx) { ops().gelu_backward(stream(), dy, pre, dx, {}); }, gelu, n);
    expect(
        "quick_gelu", [&](auto dy, auto pre, auto dx) { ops().quick_gelu_backward(stream(), dy, pre, dx); },
        quick, n);
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
    const ConstTensorView x = random({rows, 2 * h}, act(), 3, 2);
    const ConstTensorView dy = random({rows, h}, act(), 4);
    const TensorView y = output({rows, h}, act()), dx = output({rows, 2 * h}, act());
    ops().swiglu(stream(), x, y);
    expect_close(y, swiglu(values_of(x), rows, h), tolerance(), "swiglu");
    ops().swiglu_backward(stream(), dy, x, dx);
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
    for (const std::vector<int64_t>& chosen : choices) {
      const int64_t count = chosen.empty() ? 7 : 3;
      const ConstTensorView rows = chosen.empty() ? ConstTensorView{} : list(chosen);
      const ConstTensorView branch = random({count, d}, act(), 5), gamma = random({d}, DType::f32, 6),
                            dout = random({7, d}, DType::f32, 7);
      const Values b = values_of(branch), s = values_of(gamma), g = values_of(dout);
      const TensorView out = random_inout({7, d}, DType::f32, 8), plain = random_inout({7, d}, DType::f32, 8);
      const Values before = values_of(out);
      ops().scaled_index_add(stream(), out, branch, gamma, 1.5f, rows);
      expect_close(out, index_add(before, b, s, 1.5, chosen, d), 4e-6, "with gamma");
      ops().scaled_index_add(stream(), plain, branch, {}, 1.5f, rows);
      expect_close(plain, index_add(before, b, {}, 1.5, chosen, d), 4e-6, "without gamma");

      const TensorView dbranch = output({count, d}, act()), again = output({count, d}, act());
      const TensorView dgamma = random_inout({d}, DType::f32, 9);
      const Values dgamma_before = values_of(dgamma);
      ops().scaled_index_add_backward(stream(), dout, branch, gamma, 1.5f, rows, dbranch, dgamma);
      const auto loss = [&](const Values& bb, const Values& ss) {
        return dot(g, index_add(before, bb, ss, 1.5, chosen, d));
      };
      expect_close(dbranch, numeric_gradient([&](const Values& v) { return loss(v, s); }, b), tolerance(),
                   "dbranch");
      expect_close(dgamma,
                   add(numeric_gradient([&](const Values& v) { return loss(b, v); }, s), dgamma_before), 4e-6,
                   "dgamma");
      ops().scaled_index_add_backward(stream(), dout, branch, {}, 1.5f, rows, again, {});
      expect_close(again, numeric_gradient([&](const Values& v) { return loss(v, {}); }, b), tolerance(),
                   "dbranch without gamma");
    }
  }
}

/// More rows than one chunk of the sums has, and the same bits again.
TEST_P(PointwiseTest, DerivativeOfGammaOverManyRows) {
  const int64_t rows = 9001;
  for (const int64_t d : {3, 24}) {
    const ConstTensorView branch = random({rows, d}, act(), 32), dout = random({rows, d}, DType::f32, 33);
    const Values b = values_of(branch), g = values_of(dout);
    Values expected(at(d));
    double magnitude = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      expected[i % at(d)] += 0.5 * b[i] * g[i];
      magnitude += std::abs(0.5 * b[i] * g[i]) / static_cast<double>(d);
    }
    Values first;
    for (int time = 0; time < 2; ++time) {
      const TensorView dgamma = zeros({d}), dbranch = output({rows, d}, act());
      ops().scaled_index_add_backward(stream(), dout, branch, {}, 0.5f, {}, dbranch, dgamma);
      const Values got = values_of(dgamma);
      for (size_t c = 0; c < got.size(); ++c) EXPECT_NEAR(got[c], expected[c], 1e-6 * magnitude) << c;
      if (time == 0) first = got;
      EXPECT_EQ(got, first);
    }
  }
}

/// A view of a part begins where its rows do, not where vectors do.
TEST_P(PointwiseTest, ViewsThatBeginAnywhere) {
  const int64_t n = 48, d = 24;
  for (const int64_t first : {1, 2, 3, 7}) {
    const ConstTensorView whole = random({n + 8, 1}, act(), 34), gamma = random({d}, DType::f32, 35);
    const ConstTensorView x = whole.rows(first, n);
    const Values xs = values_of(x), gs = values_of(gamma);
    const TensorView all = output({n + 8, 1}, act()), wide = zeros({n + 8, 1});
    ops().convert(stream(), x, all.rows(first, n));
    expect_close(all.rows(first, n), xs, 0, "converted");
    const Values outside = values_of(all);
    for (int64_t i = 0; i < n + 8; ++i)
      EXPECT_EQ(std::isnan(outside[at(i)]), i < first || i >= first + n) << i;
    const TensorView sums = wide.rows(first, n);
    ops().scaled_index_add(stream(), sums.reshaped({2, d}), x.reshaped({2, d}), gamma, 2, {});
    Values expected(at(n));
    for (size_t i = 0; i < at(n); ++i) expected[i] = 2 * gs[i % at(d)] * xs[i];
    expect_close(sums, expected, 1e-6, "added");
    ops().axpy(stream(), -1, sums, wide.rows(first, n));
    expect_close(wide, Values(at(n + 8)), 0, "taken away");
  }
}

/// A list of no rows is not the missing list, which is all of them.
TEST_P(PointwiseTest, AListOfNoRows) {
  const int64_t d = 9;
  const ConstTensorView none = list({}), x = random({0, d}, act(), 10), dout = random({5, d}, DType::f32, 11);
  const TensorView out = random_inout({5, d}, DType::f32, 12), gathered = output({0, d}, act()),
                   dgamma = random_inout({d}, DType::f32, 13), state = random_inout({5, d}, act(), 14);
  const Values out_before = values_of(out), dgamma_before = values_of(dgamma), before = values_of(state);
  ops().scaled_index_add(stream(), out, x, {}, 1, none);
  ops().scatter_add_rows(stream(), x, none, out);
  ops().scaled_index_add_backward(stream(), dout, x, {}, 1, none, gathered, dgamma);
  ops().gather_rows(stream(), dout, none, gathered);
  ops().zero_rows(stream(), state, none);
  expect_close(out, out_before, 0, "out");
  expect_close(dgamma, dgamma_before, 0, "dgamma");
  expect_close(state, before, 0, "nothing cleared");
  EXPECT_THROW(ops().scaled_index_add(stream(), out, x, {}, 1, {}), InternalError);
  EXPECT_THROW(ops().gather_rows(stream(), dout, {}, gathered), InternalError);
  EXPECT_THROW(ops().scatter_add_rows(stream(), x, {}, out), InternalError);
  EXPECT_THROW(ops().zero_rows(stream(), state, {}), InternalError);
}

TEST_P(PointwiseTest, GatherAndScatterRows) {
  const std::vector<int64_t> chosen = {3, 0, 3, 4, 1, 3};
  const ConstTensorView rows = list(chosen);
  for (const int64_t d : {1, 24, 200}) {
    const ConstTensorView x = random({5, d}, act(), 10);
    const Values xs = values_of(x);
    for (const DType to : kActs) {
      const TensorView out = output({6, d}, to);
      ops().gather_rows(stream(), x, rows, out);
      Values expected;
      for (const int64_t row : chosen)
        for (int64_t c = 0; c < d; ++c) expected.push_back(xs[at(row * d + c)]);
      expect_close(out, rounded(expected, to), 0, "gathered");
    }
    const ConstTensorView y = random({6, d}, act(), 11);
    const TensorView out = random_inout({5, d}, DType::f32, 12);
    Values expected = values_of(out);
    const Values ys = values_of(y);
    for (size_t i = 0; i < chosen.size(); ++i)
      for (int64_t c = 0; c < d; ++c) expected[at(chosen[i] * d + c)] += ys[i * at(d) + at(c)];
    ops().scatter_add_rows(stream(), y, rows, out);
    expect_close(out, expected, 4e-6, "scattered");
  }
}

/// Sums in f32 hang on the order, so that equal bits show it; the rows of a target lie close or far apart.
TEST_P(PointwiseTest, RowsThatRepeatAreAddedInOrder) {
  const int64_t n = 700;
  for (const int64_t d : {3, 40}) {
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < n; ++i) chosen.push_back(i % 50 == 49 ? 4 : i < 300 ? i % 3 : i - 290);
    const ConstTensorView x = random({n, d}, act(), 30);
    const TensorView out = random_inout({n, d}, DType::f32, 31);
    Values expected = values_of(out);
    const Values xs = values_of(x);
    for (size_t i = 0; i < chosen.size(); ++i)
      for (size_t c = 0; c < at(d); ++c) {
        double& sum = expected[at(chosen[i] * d) + c];
        sum = static_cast<double>(static_cast<float>(sum) + static_cast<float>(xs[i * at(d) + c]));
      }
    ops().scatter_add_rows(stream(), x, list(chosen), out);
    EXPECT_EQ(values_of(out), expected) << d;
  }
}

TEST_P(PointwiseTest, ZeroRows) {
  for (const int64_t d : {1, 24, 37}) {
    const TensorView x = random_inout({5, d}, act(), 10);
    Values expected = values_of(x);
    for (const int64_t row : {4, 0, 2}) std::fill_n(expected.begin() + row * d, d, 0.0);
    ops().zero_rows(stream(), x, list({4, 0, 2}));
    expect_close(x, expected, 0, "some rows");
  }
}

/// What lists hold can be looked at on the host alone.
TEST_P(PointwiseTest, RowsOutsideAreRejected) {
  if (!ops().memory().device().is_host()) GTEST_SKIP();
  const ConstTensorView x = random({5, 4}, act(), 10), one = random({1, 4}, act(), 11);
  const TensorView out = zeros({5, 4}), gathered = output({1, 4}, act()),
                   state = random_inout({5, 4}, act(), 12);
  for (const int64_t outside : {int64_t{5}, int64_t{-1}}) {
    const ConstTensorView rows = list({outside});
    EXPECT_THROW(ops().gather_rows(stream(), x, rows, gathered), InternalError);
    EXPECT_THROW(ops().scatter_add_rows(stream(), one, rows, out), InternalError);
    EXPECT_THROW(ops().scaled_index_add(stream(), out, one, {}, 1, rows), InternalError);
    EXPECT_THROW(ops().zero_rows(stream(), state, rows), InternalError);
  }
  const ConstTensorView floats = random({1}, DType::f32, 13);
  EXPECT_THROW(ops().gather_rows(stream(), x, floats, gathered), InternalError);
}

struct Sparse {
  std::vector<int64_t> starts = {0, 1, 1, 4, 9, 10};  ///< one row without entries
  std::vector<int64_t> columns = {2, 6, 0, 6, 0, 1, 2, 3, 4, 5};
  std::vector<float> weights = {0.5f, 1.5f, -2, 0.25f, 3, 1, -1, 0.125f, 2, 1};
};

Values sparse_product(const Sparse& matrix, const Values& x, int64_t d, Values out) {
  for (size_t i = 0; i + 1 < matrix.starts.size(); ++i)
    for (size_t e = at(matrix.starts[i]); e < at(matrix.starts[i + 1]); ++e)
      for (size_t c = 0; c < at(d); ++c)
        out[i * at(d) + c] += static_cast<double>(matrix.weights[e]) * x[at(matrix.columns[e] * d) + c];
  return out;
}

TEST_P(PointwiseTest, SparseRows) {
  const Sparse matrix;
  const SparseRows rows{list(matrix.starts), list(matrix.columns), input(tensor_of(matrix.weights))};
  for (const int64_t d : {1, 16, 37, 64, 200}) {
    const ConstTensorView x = random({7, d}, DType::f32, 20);
    const TensorView out = output({5, d}), more = random_inout({5, d}, DType::f32, 21);
    const Values xs = values_of(x), before = values_of(more);
    ops().sparse_rows(stream(), rows, x, out, false);
    expect_close(out, sparse_product(matrix, xs, d, Values(at(5 * d))), 1e-6, "written");
    ops().sparse_rows(stream(), rows, x, more, true);
    expect_close(more, sparse_product(matrix, xs, d, before), 1e-6, "added");
  }
}

TEST_P(PointwiseTest, SparseRowsWithoutEntriesAndOutside) {
  const ConstTensorView x = random({7, 20}, DType::f32, 22);
  const TensorView out = output({2, 20});
  const SparseRows empty{list({0, 0, 0}), list({}), input(Tensor({0}))};
  ops().sparse_rows(stream(), empty, x, out, false);
  expect_close(out, Values(40), 0, "no entries");
  const ConstTensorView one = scalar(1);
  EXPECT_THROW(ops().sparse_rows(stream(), {list({0, 1}), list({0}), one}, x, out, false), InternalError);
  EXPECT_THROW(ops().sparse_rows(stream(), {list({0, 1, 1}), list({0}), {}}, x, out, false), InternalError);
  if (!ops().memory().device().is_host()) return;
  EXPECT_THROW(ops().sparse_rows(stream(), {list({0, 1, 1}), list({7}), one}, x, out, false), InternalError);
  EXPECT_THROW(ops().sparse_rows(stream(), {list({0, 2, 1}), list({0}), one}, x, out, false), InternalError);
  EXPECT_THROW(ops().sparse_rows(stream(), {list({0, 0, 0}), list({0}), one}, x, out, false), InternalError);
}

TEST_P(PointwiseTest, ConvertRoundsToNearestEven) {
  for (const int64_t n : {1, 33, 9001}) {
    const ConstTensorView x = random({n}, act(), 13, 100);
    for (const DType to : kActs) {
      const TensorView y = output({n}, to);
      ops().convert(stream(), x, y);
      expect_close(y, rounded(values_of(x), to), 0, "converted");
    }
  }
}

/// Alone, in whole vectors and in a rest: the scalar conversions are the expectation
/// (tests/base/half_test.cpp).
TEST_P(PointwiseTest, ConvertsWhatIsNotANumberAndWhatIsNotNormal) {
  const float nan = std::nanf(""), inf = HUGE_VALF;
  const std::vector<float> values = {nan,        inf,         -inf,     0.0f,       -0.0f,    1.00390625f,
                                     65504.0f,   65519.0f,    65520.0f, -1e30f,     0x1p-14f, 0x1.ffcp-15f,
                                     0x1.8p-24f, -0x1.4p-20f, 0x1p-25f, 0x1.8p-25f, 1e-30f,   -3.1415927f};
  for (const DType to : {DType::bf16, DType::f16}) {
    for (const size_t repeats : {size_t{1}, size_t{21}}) {
      std::vector<float> special;
      for (size_t i = 0; i < repeats * values.size(); ++i) special.push_back(values[i % values.size()]);
      const auto n = static_cast<int64_t>(special.size());
      const TensorView half = output({n}, to), back = output({n});
      ops().convert(stream(), input(tensor_of(special)), half);
      ops().convert(stream(), half, back);
      const Values got = values_of(half), widened = values_of(back);
      const Values expected = rounded(Values(special.begin(), special.end()), to);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(std::isnan(got[i]), std::isnan(expected[i])) << i;
        EXPECT_EQ(std::isnan(widened[i]), std::isnan(expected[i])) << i;
        if (std::isnan(expected[i])) continue;
        EXPECT_EQ(got[i], expected[i]) << special[i];
        EXPECT_EQ(widened[i], expected[i]) << special[i];
        EXPECT_EQ(std::signbit(got[i]), std::signbit(special[i])) << special[i];
      }
    }
  }
}

/// Every f16 there is, in whole vectors.
TEST_P(PointwiseTest, EveryF16ComesBack) {
  Tensor all({1 << 16}, DType::f16);
  for (int64_t i = 0; i < all.numel(); ++i) all.as<f16>()[i].bits = static_cast<uint16_t>(i);
  const TensorView wide = output({1 << 16}), narrow = output({1 << 16}, DType::f16);
  ops().convert(stream(), input(all), wide);
  ops().convert(stream(), wide, narrow);
  const Tensor back = host_copy(narrow), floats = host_copy(wide);
  for (int64_t i = 0; i < all.numel(); ++i) {
    const auto value = static_cast<float>(all.as<f16>()[i]);
    ASSERT_TRUE(std::isnan(value) ? std::isnan(floats.as<float>()[i]) : floats.as<float>()[i] == value) << i;
    ASSERT_TRUE(std::isnan(value) || back.as<f16>()[i].bits == i) << i;
  }
}

TEST_P(PointwiseTest, AxpyAndScale) {
  for (const int64_t n : {0, 1, 19, 20000}) {
    const ConstTensorView x = random({n}, DType::f32, 14);
    const TensorView y = random_inout({n}, DType::f32, 15), z = output({n}),
                     in_place = random_inout({n}, DType::f32, 14);
    const Values xs = values_of(x);
    Values expected = values_of(y), scaled = xs;
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] -= 0.25 * xs[i];
      scaled[i] *= static_cast<double>(0.3f);
    }
    ops().axpy(stream(), -0.25f, x, y);
    expect_close(y, expected, 4e-6, "axpy");
    ops().scale(stream(), 0.3f, x, z);
    expect_close(z, scaled, 1e-7, "scale");
    ops().scale(stream(), 0.3f, in_place, in_place);
    expect_close(in_place, scaled, 1e-7, "scale in place");
  }
}

TEST_P(PointwiseTest, ReluAndItsDerivative) {
  for (const int64_t n : {1, 19, 20000}) {
    Tensor start = random_tensor({n}, DType::f32, 17);
    if (n > 8) start.as<float>()[3] = 0, start.as<float>()[4] = -HUGE_VALF, start.as<float>()[5] = HUGE_VALF;
    const Values x = host_values(start);
    const TensorView y = output({n}), in_place = inout(start), dy = random_inout({n}, DType::f32, 18),
                     dx = output({n});
    const Values g = values_of(dy);
    Values expected(x.size()), gradient(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      expected[i] = std::max(x[i], 0.0);
      gradient[i] = x[i] > 0 ? g[i] : 0;
    }
    ops().relu(stream(), input(start), y);
    ops().relu(stream(), in_place, in_place);
    EXPECT_EQ(values_of(y), expected);
    EXPECT_EQ(values_of(in_place), expected);
    ops().relu_backward(stream(), dy, y, dx);
    EXPECT_EQ(values_of(dx), gradient);
    ops().relu_backward(stream(), dy, input(start), dy);
    EXPECT_EQ(values_of(dy), gradient);
  }
  Tensor bad({1});
  bad.as<float>()[0] = std::nanf("");
  const TensorView y = output({1});
  ops().relu(stream(), input(bad), y);
  EXPECT_TRUE(std::isnan(values_of(y)[0]));
}

TEST_P(PointwiseTest, Reciprocal) {
  const float nan = std::nanf("");
  const float inf = HUGE_VALF;
  for (const int64_t n : {1, 19, 20000}) {
    Tensor start = random_tensor({n}, DType::f32, 16);
    if (n > 8)
      start.as<float>()[3] = 0, start.as<float>()[4] = nan, start.as<float>()[5] = -inf,
      start.as<float>()[n - 1] = -0.0f;
    const TensorView y = output({n}), in_place = inout(start);
    ops().reciprocal(stream(), input(start), 7, y);
    ops().reciprocal(stream(), in_place, inf, in_place);
    const Values x = host_values(start), got = values_of(y), other = values_of(in_place);
    for (size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(x[i])) {
        EXPECT_TRUE(std::isnan(got[i]) && std::isnan(other[i]));
      } else if (x[i] == 0) {
        EXPECT_EQ(got[i], 7);
        EXPECT_EQ(other[i], HUGE_VAL);
      } else {
        EXPECT_NEAR(got[i], 1 / x[i], 2e-7 / std::abs(x[i]));
        EXPECT_EQ(got[i], other[i]);
      }
    }
  }
}

TEST_P(PointwiseTest, PatchifyFollowsTheConvolutionLayout) {
  for (const int64_t p : {1, 2, 3, 4, 14, 16}) {
    const int64_t batch = 2, channels = 3, height = 2 * p, width = 3 * p;
    const ConstTensorView images = random({batch, channels, height, width}, DType::f32, 16);
    const TensorView patches = output({batch * 2 * 3, channels * p * p}, act());
    ops().patchify(stream(), images, p, patches);
    const Values pixels = values_of(images);
    Values expected;
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t py = 0; py < 2; ++py)
        for (int64_t px = 0; px < 3; ++px)
          for (int64_t c = 0; c < channels; ++c)
            for (int64_t y = 0; y < p; ++y)
              for (int64_t x = 0; x < p; ++x)
                expected.push_back(
                    pixels[at(((b * channels + c) * height + py * p + y) * width + px * p + x)]);
    expect_close(patches, rounded(expected, act()), 0, "patches");
    const TensorView back = output({batch, channels, height, width});
    ops().patchify_backward(stream(), patches, p, back);
    expect_close(back, rounded(pixels, act()), 0, "images again");
    EXPECT_THROW(ops().patchify(stream(), images, p + 4, patches), InternalError);
  }
}

}  // namespace
}  // namespace dino::ops::testing
