// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class LinearTest : public OperatorTest {};
INSTANTIATE_TEST_SUITE_P(Backends, LinearTest, ::testing::ValuesIn(variants()), variant_name);

struct Sizes {
  int64_t m, n, k;
};
const std::vector<Sizes> kProducts = {{1, 1, 1},   {1, 7, 5},     {3, 1, 17},
                                      {5, 33, 24}, {67, 19, 130}, {130, 48, 64}};

double gelu(double x) {
  return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
}

/// x[m,k] w[n,k]^T + b
Values linear(const Values& x, const Values& w, const Values& b, Sizes s) {
  Values y(at(s.m * s.n));
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = b.empty() ? 0 : b[at(j)];
      for (int64_t p = 0; p < s.k; ++p) sum += x[at(i * s.k + p)] * w[at(j * s.k + p)];
      y[at(i * s.n + j)] = sum;
    }
  }
  return y;
}

TEST_P(LinearTest, Forward) {
  for (const Sizes& s : kProducts) {
    const ConstTensorView x = random({s.m, s.k}, act(), 1);
    const ConstTensorView w = random({s.n, s.k}, DType::f32, 2);
    const ConstTensorView b = random({s.n}, DType::f32, 3);
    const Values plain = linear(values_of(x), rounded(values_of(w), act()), {}, s);
    const Values biased = linear(values_of(x), rounded(values_of(w), act()), values_of(b), s);
    Values activated = biased;
    for (double& v : activated) v = gelu(v);
    Values quick = biased;
    for (double& v : quick) v = v / (1 + std::exp(-1.702 * v));
    const TensorView y = output({s.m, s.n}, act());
    const TensorView pre = output({s.m, s.n}, act());
    ops().linear(stream(), x, w, {}, Activation::none, y, {});
    expect_close(y, plain, tolerance(), "no bias");
    ops().linear(stream(), x, w, b, Activation::gelu, y, {});
    expect_close(y, activated, tolerance(), "gelu");
    const TensorView again = output({s.m, s.n}, act());
    ops().linear(stream(), x, w, b, Activation::gelu, again, pre);
    expect_close(again, activated, tolerance(), "gelu with pre");
    expect_close(pre, biased, tolerance(), "pre");
    ops().linear(stream(), x, w, b, Activation::quick_gelu, again, pre);
    expect_close(again, quick, tolerance(), "quick_gelu with pre");
    ops().linear(stream(), x, w, b, Activation::quick_gelu, y, {});
    expect_close(y, quick, tolerance(), "quick_gelu");
    const TensorView wide = output({s.m, s.n}, DType::f32);
    ops().linear(stream(), x, w, b, Activation::none, wide, {});
    expect_close(wide, biased, 4e-6, "f32 result");
  }
}

TEST_P(LinearTest, BackwardIsTheDerivative) {
  for (const Sizes& s : kProducts) {
    if (s.m * s.n * s.k > 5000) continue;
    const ConstTensorView x = random({s.m, s.k}, act(), 4);
    const ConstTensorView w = random({s.n, s.k}, DType::f32, 5);
    const ConstTensorView dy = random({s.m, s.n}, act(), 6);
    const Values xs = values_of(x);
    const Values ws = rounded(values_of(w), act());
    const Values bs(at(s.n));
    const Values gs = values_of(dy);
    const Values dx_expected =
        numeric_gradient([&](const Values& v) { return dot(gs, linear(v, ws, bs, s)); }, xs);
    const Values dw_expected =
        numeric_gradient([&](const Values& v) { return dot(gs, linear(xs, v, bs, s)); }, ws);
    const Values db_expected =
        numeric_gradient([&](const Values& v) { return dot(gs, linear(xs, ws, v, s)); }, bs);
    const TensorView dx = random_inout({s.m, s.k}, act(), 7);
    const Values before = values_of(dx);
    ops().linear_backward_input(stream(), dy, w, dx, true);
    expect_close(dx, add(dx_expected, before), tolerance(), "dx accumulated");
    ops().linear_backward_input(stream(), dy, w, dx, false);
    expect_close(dx, dx_expected, tolerance(), "dx");
    const TensorView dw = random_inout({s.n, s.k}, DType::f32, 8);
    const TensorView db = random_inout({s.n}, DType::f32, 9);
    const Values dw_before = values_of(dw);
    const Values db_before = values_of(db);
    ops().linear_backward_weight(stream(), dy, x, dw, db);
    expect_close(dw, add(dw_expected, dw_before), 4e-6, "dw");
    expect_close(db, add(db_expected, db_before), 4e-6, "db");
    ops().linear_backward_weight(stream(), dy, x, dw, {});
    expect_close(dw, add(add(dw_expected, dw_expected), dw_before), 4e-6, "dw twice");
  }
}

/// Shapes above the thresholds for threads and chunks: the gradients are themselves products.
TEST_P(LinearTest, BackwardOfManyRows) {
  const Sizes s{150, 40, 72};
  const ConstTensorView x = random({s.m, s.k}, act(), 10);
  const ConstTensorView w = random({s.n, s.k}, DType::f32, 11);
  const ConstTensorView dy = random({s.m, s.n}, act(), 12);
  const Values xs = values_of(x), ws = rounded(values_of(w), act()), gs = values_of(dy);
  Values dx(at(s.m * s.k)), dw(at(s.n * s.k)), db(at(s.n));
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      const double g = gs[at(i * s.n + j)];
      db[at(j)] += g;
      for (int64_t p = 0; p < s.k; ++p) {
        dx[at(i * s.k + p)] += g * ws[at(j * s.k + p)];
        dw[at(j * s.k + p)] += g * xs[at(i * s.k + p)];
      }
    }
  }
  const TensorView got_dx = output({s.m, s.k}, act()), got_dw = zeros({s.n, s.k}), got_db = zeros({s.n});
  ops().linear_backward_input(stream(), dy, w, got_dx, false);
  ops().linear_backward_weight(stream(), dy, x, got_dw, got_db);
  expect_close(got_dx, dx, tolerance(), "dx");
  expect_close(got_dw, dw, 4e-6, "dw");
  expect_close(got_db, db, 4e-6, "db");
}

/// Curation's promise of the same bytes for any number of ranks and threads rests on this.
TEST_P(LinearTest, ARowDoesNotDependOnItsBatchOrOnThreads) {
  const std::vector<Sizes> sizes =
      is_reference() ? std::vector<Sizes>{{20, 5, 7}}
                     : std::vector<Sizes>{{130, 384, 384}, {70, 72, 1030}, {1100, 100, 300}};
  for (const Sizes& s : sizes) {
    const ConstTensorView x = random({s.m, s.k}, act(), 20), b = random({s.n}, DType::f32, 22);
    const ConstTensorView w = random({s.n, s.k}, DType::f32, 21, 0.05);
    const TensorView whole = output({s.m, s.n}, act());
    set_threads(1);
    ops().linear(stream(), x, w, b, Activation::gelu, whole, {});
    const Values expected = values_of(whole);
    for (const int threads : {1, 2, 4}) {
      set_threads(threads);
      for (const int64_t count : {int64_t{1}, int64_t{7}, int64_t{50}, s.m}) {
        if (count > s.m) continue;
        const TensorView part = output({count, s.n}, act());
        ops().linear(stream(), x.rows(s.m - count, count), w, b, Activation::gelu, part, {});
        const Values got = values_of(part);
        ASSERT_TRUE(std::equal(got.begin(), got.end(), expected.end() - static_cast<int64_t>(got.size())))
            << count << " rows, " << threads << " threads";
      }
    }
    set_threads(1);
  }
}

TEST_P(LinearTest, AWeightMayBeRoundedAlready) {
  const Sizes s{67, 19, 130};
  const ConstTensorView w = random({s.n, s.k}, DType::f32, 41), x = random({s.m, s.k}, act(), 42),
                        dy = random({s.m, s.n}, act(), 43);
  const TensorView narrow = output({s.n, s.k}, act());
  ops().convert(stream(), w, narrow);
  const TensorView y = output({s.m, s.n}), y2 = output({s.m, s.n}), dx = output({s.m, s.k}),
                   dx2 = output({s.m, s.k});
  ops().linear(stream(), x, w, {}, Activation::none, y, {});
  ops().linear(stream(), x, narrow, {}, Activation::none, y2, {});
  EXPECT_EQ(values_of(y), values_of(y2));
  ops().linear_backward_input(stream(), dy, w, dx, false);
  ops().linear_backward_input(stream(), dy, narrow, dx2, false);
  EXPECT_EQ(values_of(dx), values_of(dx2));
}

/// Weights of products of many rows may go another way: the same numbers come out.
TEST_P(LinearTest, AGradientOfManyRowsIsThatOfFew) {
  if (is_reference()) GTEST_SKIP() << "one way only";
  const Sizes s{1100, 130, 75};
  const ConstTensorView w = random({s.n, s.k}, DType::f32, 31), dy = random({s.m, s.n}, act(), 32);
  const TensorView whole = output({s.m, s.k}, act()), part = output({40, s.k}, act());
  ops().linear_backward_input(stream(), dy, w, whole, false);
  ops().linear_backward_input(stream(), dy.rows(s.m - 40, 40), w, part, false);
  const Values all = values_of(whole), few = values_of(part);
  expect_close(part, Values(all.end() - 40 * s.k, all.end()), by_act(4e-6, 8e-3), "last rows");
}

/// Operands and results of different dtypes, as where an f32 stream meets narrower activations.
TEST_P(LinearTest, ResultsOfAnotherDtype) {
  const Sizes s{67, 19, 130};
  const ConstTensorView w = random({s.n, s.k}, DType::f32, 51), b = random({s.n}, DType::f32, 52);
  for (const auto& [from, to] : {std::pair{DType::f32, act()}, std::pair{act(), DType::f32}}) {
    const ConstTensorView x = random({s.m, s.k}, from, 53), dy = random({s.m, s.n}, from, 54);
    const Values ws = rounded(values_of(w), from), gs = values_of(dy);
    const Values biased = linear(values_of(x), ws, values_of(b), s);
    Values activated = biased, dx(at(s.m * s.k));
    for (double& v : activated) v = gelu(v);
    for (int64_t i = 0; i < s.m; ++i)
      for (int64_t j = 0; j < s.n; ++j)
        for (int64_t p = 0; p < s.k; ++p) dx[at(i * s.k + p)] += gs[at(i * s.n + j)] * ws[at(j * s.k + p)];
    const TensorView y = output({s.m, s.n}, to), pre = output({s.m, s.n}, from);
    ops().linear(stream(), x, w, b, Activation::gelu, y, pre);
    expect_close(y, activated, tolerance(), "gelu");
    expect_close(pre, biased, tolerance(), "pre");
    ops().linear(stream(), x, w, b, Activation::none, y, pre);
    expect_close(y, biased, tolerance(), "no activation");
    const TensorView got = random_inout({s.m, s.k}, to, 55);
    const Values before = values_of(got);
    ops().linear_backward_input(stream(), dy, w, got, true);
    expect_close(got, add(dx, before), tolerance(), "dx accumulated");
    ops().linear_backward_input(stream(), dy, w, got, false);
    expect_close(got, dx, tolerance(), "dx");
  }
}

/// A GPU rounds where it may, all others are exact; what TF32 holds is exact everywhere.
TEST_P(LinearTest, ProductsInTf32) {
  if (act() != DType::f32) GTEST_SKIP() << "of f32 alone";
  const Sizes s{40, 24, 64};
  const ConstTensorView x = random({s.m, s.k}, DType::f32, 41), w = random({s.n, s.k}, DType::f32, 42);
  const TensorView y = output({s.m, s.n});
  const Values expected = linear(values_of(x), values_of(w), {}, s);
  const bool rounds = std::string(ops().name()) == "cuda";
  stream().allow_tf32_products(true);
  ops().linear(stream(), x, w, {}, Activation::none, y, {});
  expect_close(y, expected, rounds ? 2e-3 : 4e-6, "rounded");
  const Values got = values_of(y);
  double error = 0;
  for (size_t i = 0; i < got.size(); ++i) error = std::max(error, std::abs(got[i] - expected[i]));
  EXPECT_EQ(error > 1e-4 * largest_magnitude(expected), rounds) << error;
  const ConstTensorView exact = input(tensor_of<float>({1.5f, -0.0009765625f, 3, 1027}, 4)),
                        factor = input(tensor_of<float>({1, 2048, 1.0009765625f, -1}, 4));
  const TensorView product = output({1, 1});
  ops().linear(stream(), exact, factor, {}, Activation::none, product, {});
  EXPECT_EQ(values_of(product).front(), 1.5 - 2 + 3 * 1.0009765625 - 1027);
  stream().allow_tf32_products(false);
  ops().linear(stream(), x, w, {}, Activation::none, y, {});
  expect_close(y, expected, 4e-6, "exact again");
}

TEST_P(LinearTest, NoRows) {
  const ConstTensorView x = random({0, 5}, act(), 1);
  const ConstTensorView w = random({3, 5}, DType::f32, 1);
  const TensorView y = output({0, 3}, act());
  const TensorView dw = random_inout({3, 5}, DType::f32, 2);
  const Values before = values_of(dw);
  const TensorView db = zeros({3});
  ops().linear(stream(), x, w, {}, Activation::gelu, y, {});
  ops().linear_backward_weight(stream(), y, x, dw, db);
  expect_close(dw, before, 0, "dw unchanged");
  expect_close(db, Values(3), 0, "db unchanged");
}

TEST_P(LinearTest, RejectsShapesThatDoNotFit) {
  const ConstTensorView x = random({4, 5}, act(), 1), w = random({3, 6}, DType::f32, 2);
  const TensorView y = output({4, 3}, act());
  EXPECT_THROW(ops().linear(stream(), x, w, {}, Activation::none, y, {}), InternalError);
  const ConstTensorView half_weight = random({3, 5}, act() == DType::bf16 ? DType::f16 : DType::bf16, 3);
  EXPECT_THROW(ops().linear(stream(), x, half_weight, {}, Activation::none, y, {}), InternalError);
  const ConstTensorView fits = random({3, 5}, DType::f32, 3), b = random({4}, DType::f32, 4);
  EXPECT_THROW(ops().linear(stream(), x, fits, b, Activation::none, y, {}), InternalError);
}

/// In the lower tail gelu is x Phi(x) with Phi down to 1e-23: it must not cancel.
TEST_P(LinearTest, GeluIsAccurateInTheTails) {
  const int64_t n = 2001;
  Tensor start({n, 1}, act());
  for (int64_t i = 0; i < n; ++i) {
    set_value(start, i, static_cast<float>(-10 + 0.01 * static_cast<double>(i)));
  }
  const ConstTensorView x = input(start), one = input(tensor_of<float>({1}, 1));
  const TensorView y = output({n, 1}, act()), pre = output({n, 1}, act());
  ops().linear(stream(), x, one, {}, Activation::gelu, y, pre);
  const Values in = values_of(x), out = values_of(y);
  // f32: the exponent x^2/2 is rounded before exp() sees it.
  const auto bound = [&](double v) { return by_act(1e-6 + 6e-8 * v * v, 4e-3); };
  const double smallest = act() == DType::f16 ? 0x1p-25 : 1e-30;  // half of the least f16
  for (size_t i = 0; i < in.size(); ++i)
    ASSERT_NEAR(out[i], gelu(in[i]), bound(in[i]) * std::abs(gelu(in[i])) + smallest) << in[i];
}

}  // namespace
}  // namespace dino::ops::testing
