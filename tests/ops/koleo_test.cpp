// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

class KoleoTest : public OperatorTest {};
INSTANTIATE_TEST_SUITE_P(Backends, KoleoTest, ::testing::ValuesIn(variants(false)), variant_name);

TEST_P(KoleoTest, NearestOther) {
  for (const int64_t columns : {2, 5, 16, 37, 130}) {
    for (const int64_t rows : {int64_t{1}, int64_t{2}, columns}) {
      for (const int64_t first : {int64_t{0}, columns - rows}) {
        Tensor dots = random_tensor({rows, columns}, DType::f32, 1);
        for (int64_t r = 0; r < rows; ++r) dots.as<float>()[r * columns + first + r] = 100;  // itself
        const TensorView index = output({rows}, DType::i64);
        ops().nearest_other(stream(), input(dots), first, index);
        const Values d = host_values(dots), got = values_of(index);
        for (int64_t r = 0; r < rows; ++r) {
          int64_t best = -1;
          for (int64_t c = 0; c < columns; ++c)
            if (c != first + r && (best < 0 || d[at(r * columns + c)] > d[at(r * columns + best)])) best = c;
          EXPECT_EQ(got[at(r)], static_cast<double>(best)) << columns << " columns, row " << first + r;
        }
      }
    }
  }
}

TEST_P(KoleoTest, NearestOtherOfEqualsAndOfNan) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const int64_t columns = 40;
  Tensor dots({8, columns});  // rows [2, 10)
  const auto row = [&](int64_t r) { return dots.as<float>() + r * columns; };
  for (int64_t r = 0; r < 8; ++r) std::fill_n(row(r), columns, -1.0f);
  row(0)[5] = row(0)[39] = 3;                                 // equal: the first
  row(1)[3] = 9, row(1)[39] = row(1)[20] = 2;                 // itself does not count
  std::fill_n(row(2), columns, nan);                          // nothing compares: the first other column
  std::fill_n(row(3), columns, nan), row(3)[33] = -infinity;  // the one that does
  std::fill_n(row(4), columns, -infinity);
  row(5)[0] = nan, row(5)[38] = 0;
  row(6)[8] = nan;                                   // itself
  std::fill_n(row(7), columns, nan), row(7)[9] = 1;  // only itself compares
  const TensorView index = output({8}, DType::i64);
  ops().nearest_other(stream(), input(dots), 2, index);
  EXPECT_EQ(values_of(index), (Values{5, 20, 0, 33, 0, 38, 0, 0}));

  std::fill_n(row(0), columns, nan);
  const TensorView one = output({1}, DType::i64);
  ops().nearest_other(stream(), input(dots).rows(0, 1), 0, one);
  EXPECT_EQ(values_of(one)[0], 1);  // row 0 is not its own other
}

/// Sum over all anchors, and the part of the loss that rows [first, first + own) count.
double terms(const Values& x, int64_t d, const std::vector<int64_t>& neighbours, int64_t first, int64_t own) {
  double loss = 0;
  const auto total = static_cast<int64_t>(neighbours.size());
  for (int64_t a = first; a < first + own; ++a) {
    double squares = 0;
    for (int64_t c = 0; c < d; ++c)
      squares += std::pow(x[at(a * d + c)] - x[at(neighbours[at(a)] * d + c)] + 1e-8, 2);
    loss -= std::log(std::max(std::sqrt(squares), 1e-6) + 1e-8) / static_cast<double>(total);
  }
  return loss;
}

TEST_P(KoleoTest, KoleoAndItsDerivative) {
  // Row 3 is the neighbour of several, row 1 and 2 of each other, row 7 of none.
  const std::vector<int64_t> neighbours = {3, 2, 1, 0, 3, 6, 5, 3, 1};
  const auto total = static_cast<int64_t>(neighbours.size());
  for (const int64_t d : {1, 16, 37, 130}) {
    const ConstTensorView x = random({total, d}, DType::f32, 1);
    const Values xs = values_of(x);
    const Values all =
        numeric_gradient([&](const Values& v) { return terms(v, d, neighbours, 0, total); }, xs);
    for (const auto& [first, own] : {std::pair<int64_t, int64_t>{0, 9}, {2, 4}, {8, 1}, {4, 0}}) {
      Values first_bits;
      for (const int threads : {1, 3}) {
        set_threads(threads);
        const TensorView loss = inout(tensor_of<double>({2})), dx = output({own, d});
        ops().koleo(stream(), x, list(neighbours), first, 0.75, loss, dx);
        EXPECT_NEAR(values_of(loss)[0], 2 + terms(xs, d, neighbours, first, own), 1e-6);
        Values expected(all.begin() + first * d, all.begin() + (first + own) * d);
        for (double& v : expected) v *= 0.75;
        expect_close(dx, expected, 1e-5, "dx");
        if (threads == 1) first_bits = values_of(dx);
        EXPECT_EQ(values_of(dx), first_bits) << "the same for any number of threads";
      }
      set_threads(1);
    }
  }
}

/// The gradient of some rows is a part of the gradient of all, bit for bit: the split over ranks is not seen.
TEST_P(KoleoTest, PartsAreRowsOfTheWhole) {
  const int64_t total = 90, d = 200;
  const ConstTensorView x = random({total, d}, DType::f32, 2);
  std::vector<int64_t> neighbours;
  for (int64_t a = 0; a < total; ++a)
    neighbours.push_back(a % 7 == 3 ? (a + 1) % total : a * a % 7 + (a < 7 ? 7 : 0));
  const ConstTensorView nearest = list(neighbours);
  const TensorView whole = output({total, d}), loss = zeros({1}, DType::f64);
  ops().koleo(stream(), x, nearest, 0, 1, loss, whole);
  const Values expected = values_of(whole);
  set_threads(3);
  for (int64_t first = 0; first < total; first += 25) {
    const int64_t own = std::min<int64_t>(25, total - first);
    const TensorView part = output({own, d});
    ops().koleo(stream(), x, nearest, first, 1, loss, part);
    EXPECT_EQ(values_of(part), Values(expected.begin() + first * d, expected.begin() + (first + own) * d));
  }
  set_threads(1);
}

/// Equal rows push each other nowhere, and their loss is that of the resolution; NaN stays.
TEST_P(KoleoTest, EqualRowsAndNan) {
  const int64_t d = 20;
  Tensor start = random_tensor({5, d}, DType::f32, 3, 0.2);
  std::copy_n(start.as<float>(), d, start.as<float>() + d);
  const TensorView loss = zeros({1}, DType::f64), dx = output({2, d});
  const ConstTensorView nearest = list({1, 0, 3, 2, 2});
  ops().koleo(stream(), input(start), nearest, 0, 1, loss, dx);
  EXPECT_NEAR(values_of(loss)[0], -2 * std::log(1e-6 + 1e-8) / 5, 1e-9);
  expect_close(dx, Values(at(2 * d)), 0, "no gradient");

  start.as<float>()[2 * d + 7] = std::nanf("");
  const TensorView bad = zeros({1}, DType::f64), dbad = output({2, d});
  ops().koleo(stream(), input(start), nearest, 2, 1, bad, dbad);
  EXPECT_TRUE(std::isnan(values_of(bad)[0]));
  EXPECT_TRUE(std::isnan(values_of(dbad)[7]));
}

TEST_P(KoleoTest, RejectsShapesThatDoNotFit) {
  const ConstTensorView dots = random({3, 4}, DType::f32, 1), single = random({1, 1}, DType::f32, 2);
  const TensorView index = output({3}, DType::i64), loss = zeros({1}, DType::f64), dx = output({2, 4});
  EXPECT_THROW(ops().nearest_other(stream(), dots, 2, index), InternalError);
  EXPECT_THROW(ops().nearest_other(stream(), dots, -1, index), InternalError);
  EXPECT_THROW(ops().nearest_other(stream(), dots, 0, zeros({3})), InternalError);
  EXPECT_THROW(ops().nearest_other(stream(), single, 0, output({1}, DType::i64)), InternalError);
  EXPECT_THROW(ops().koleo(stream(), dots, list({1, 2, 0}), 2, 1, loss, dx), InternalError);
  EXPECT_THROW(ops().koleo(stream(), dots, list({1, 2}), 0, 1, loss, dx), InternalError);
  EXPECT_THROW(ops().koleo(stream(), dots, list({1, 2, 0}), 0, 1, zeros({1}), dx), InternalError);
  if (!ops().memory().device().is_host()) return;
  EXPECT_THROW(ops().koleo(stream(), dots, list({1, 2, 3}), 0, 1, loss, dx), InternalError);
}

}  // namespace
}  // namespace dino::ops::testing
