// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <numeric>

#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

struct Problem {
  std::vector<int64_t> starts;
  int64_t heads, width;
  bool causal = false;
  [[nodiscard]] int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
  [[nodiscard]] int64_t length(int64_t s) const { return starts[at(s) + 1] - starts[at(s)]; }
  [[nodiscard]] int64_t rows() const { return starts.back(); }
  [[nodiscard]] int64_t model() const { return heads * width; }
  [[nodiscard]] double scale() const { return 1 / std::sqrt(static_cast<double>(width)); }
};

Problem of_lengths(const std::vector<int64_t>& lengths, int64_t heads, int64_t width) {
  Problem p{{0}, heads, width};
  for (const int64_t length : lengths) p.starts.push_back(p.starts.back() + length);
  return p;
}

class AttentionTest : public OperatorTest {
 protected:
  /// Probabilities and outputs meet one rounding each.
  [[nodiscard]] double bound() const { return by_act(5e-6, 1e-2); }
  Sequences packed(const Problem& p) {
    Sequences result = sequences(p.starts);
    result.causal = p.causal;
    return result;
  }
  void expect_softmax_of_scores(const Problem& p);
  void expect_reference_gradient(const Problem& p, double size, double tolerance);
  void expect_reference_gradient(const Problem& p) { expect_reference_gradient(p, 1, bound()); }
  void expect_rows_of_the_whole(const Problem& p);  ///< some queries alone
  void expect_same_bits(const Problem& p);          ///< for any number of threads
};
INSTANTIATE_TEST_SUITE_P(Backends, AttentionTest, ::testing::ValuesIn(variants()), variant_name);

/// Lengths 1, an empty one, one of exactly a tile, and more than a tile; widths that are and are not whole
/// vectors.
const std::vector<Problem> kProblems = {
    {{0, 1}, 1, 8},    {{0, 1, 4, 4, 21}, 2, 24}, {{0, 48, 98}, 2, 64}, {{0, 113}, 1, 40},
    {{0, 19}, 1, 256}, {{0, 9, 31}, 3, 12},       {{0, 18}, 2, 5},      {{0, 21}, 1, 300},
};

struct Result {
  Values out, lse, probabilities;  ///< probabilities: of query 0 of each sequence
};

Result attend(const Values& qkv, const Problem& p) {
  const int64_t model = p.model();
  Result result{Values(at(p.rows() * model)), Values(at(p.heads * p.rows())), {}};
  for (int64_t s = 0; s < p.count(); ++s) {
    const int64_t begin = p.starts[at(s)], length = p.length(s);
    for (int64_t h = 0; h < p.heads; ++h) {
      const auto index = [&](int part, int64_t row, int64_t c) {
        return at((begin + row) * 3 * model + part * model + h * p.width + c);
      };
      for (int64_t i = 0; i < length; ++i) {
        Values e(at(length));
        const int64_t seen = p.causal ? i + 1 : length;
        double total = 0;
        for (int64_t j = 0; j < seen; ++j) {
          double score = 0;
          for (int64_t c = 0; c < p.width; ++c) score += qkv[index(0, i, c)] * qkv[index(1, j, c)];
          total += e[at(j)] = std::exp(score * p.scale());
        }
        result.lse[at(h * p.rows() + begin + i)] = std::log(total);
        for (int64_t j = 0; j < length; ++j) {
          if (i == 0) result.probabilities.push_back(e[at(j)] / total);
          for (int64_t c = 0; c < p.width; ++c)
            result.out[at((begin + i) * model + h * p.width + c)] += e[at(j)] / total * qkv[index(2, j, c)];
        }
      }
    }
  }
  return result;
}

void AttentionTest::expect_softmax_of_scores(const Problem& p) {
  const ConstTensorView qkv = random({p.rows(), 3 * p.model()}, act(), 1);
  const Result expected = attend(values_of(qkv), p);
  const TensorView out = output({p.rows(), p.model()}, act()), lse = output({p.heads, p.rows()});
  ops().attention(stream(), qkv, packed(p), p.heads, static_cast<float>(p.scale()), out, lse);
  expect_close(out, expected.out, bound(), "out");
  expect_close(lse, expected.lse, 2e-6, "lse");
  const TensorView again = output({p.rows(), p.model()}, act());
  ops().attention(stream(), qkv, packed(p), p.heads, static_cast<float>(p.scale()), again, {});
  expect_close(again, values_of(out), 0, "without lse");
}

/// All elements of the gradient against the reference backend's, which the differences below vouch for.
void AttentionTest::expect_reference_gradient(const Problem& p, double size, double tolerance) {
  const Tensor qkv = random_tensor({p.rows(), 3 * p.model()}, act(), 6, size);
  const Tensor dout = random_tensor({p.rows(), p.model()}, act(), 7);
  const Tensor starts = tensor_of(p.starts);
  const Sequences whole{starts, p.rows(), sequences(p.starts).longest, p.causal};
  const auto scale = static_cast<float>(p.scale());
  Tensor out({p.rows(), p.model()}, act()), lse({p.heads, p.rows()});
  Tensor expected({p.rows(), 3 * p.model()}, act());
  Backend& reference = backend_named("reference");
  const std::unique_ptr<Stream> host = reference.new_stream();
  reference.attention(*host, qkv, whole, p.heads, scale, out, lse);
  reference.attention_backward(*host, dout, qkv, out, lse, whole, p.heads, scale, expected);
  const TensorView got = output({p.rows(), 3 * p.model()}, act());
  ops().attention_backward(stream(), input(dout), input(qkv), input(out), input(lse), packed(p), p.heads,
                           scale, got);
  expect_close(got, host_values(expected), tolerance, "dqkv");
}

TEST_P(AttentionTest, ForwardMatchesSoftmaxOfScores) {
  for (const Problem& p : kProblems) expect_softmax_of_scores(p);
}

/// Scores of several hundred overflow exp() unless the maximum is taken off, which rises again and again over
/// many keys; where a row's scores are all far below zero, so does anything that is not of the row.
TEST_P(AttentionTest, LargeScoresStayFinite) {
  const Problem p = of_lengths({33, 190, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 3, 17}, 1, 16);
  const ConstTensorView qkv = random({p.rows(), 3 * p.model()}, act(), 2, 10);
  const Result expected = attend(values_of(qkv), p);
  const TensorView out = output({p.rows(), p.model()}, act()), lse = output({p.heads, p.rows()});
  ops().attention(stream(), qkv, packed(p), p.heads, static_cast<float>(p.scale()), out, lse);
  expect_close(out, expected.out, by_act(1e-4, 1e-2), "out");
  expect_reference_gradient(p, 10, by_act(1e-4, 1e-2));
}

/// The derivative against differences of the fp64 forward, on elements spread over q, k and v.
TEST_P(AttentionTest, BackwardIsTheDerivative) {
  for (Problem p : kProblems) {
    p.causal = p.heads == 2;
    const ConstTensorView qkv = random({p.rows(), 3 * p.model()}, act(), 3);
    const ConstTensorView dout = random({p.rows(), p.model()}, act(), 4);
    const TensorView out = output({p.rows(), p.model()}, act()), lse = output({p.heads, p.rows()}),
                     dqkv = output({p.rows(), 3 * p.model()}, act());
    const auto scale = static_cast<float>(p.scale());
    ops().attention(stream(), qkv, packed(p), p.heads, scale, out, lse);
    ops().attention_backward(stream(), dout, qkv, out, lse, packed(p), p.heads, scale, dqkv);
    const Values g = values_of(dout), got = values_of(dqkv);
    const double largest = largest_magnitude(got);
    Values x = values_of(qkv);
    Random chosen(5, RandomStream::test, 0);
    for (int sample = 0; sample < 12; ++sample) {
      const auto i = static_cast<size_t>(chosen.below(x.size()));
      const double kept = x[i];
      x[i] = kept + 1e-5;
      const double above = dot(g, attend(x, p).out);
      x[i] = kept - 1e-5;
      const double below = dot(g, attend(x, p).out);
      x[i] = kept;
      const double tolerance = by_act(1e-5, 2e-2) * largest;
      ASSERT_NEAR(got[i], (above - below) / 2e-5, tolerance) << "element " << i;
    }
  }
}

TEST_P(AttentionTest, BackwardAgreesWithTheReference) {
  expect_reference_gradient({{0, 50, 151, 152}, 3, 64});
}

/// Lengths around those of tiles, in one matrix; 257 is an image of 224 pixels.
TEST_P(AttentionTest, LengthsAroundTiles) {
  const Problem p = of_lengths({1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 257}, 1, 64);
  expect_softmax_of_scores(p);
  expect_reference_gradient(p);
}

/// Heads of widths that are a whole number of matrix instructions, in every number up to six.
TEST_P(AttentionTest, WidthsAndHeads) {
  const std::vector<int64_t> lengths = {33, 0, 5, 70};
  for (const auto& [heads, width] : std::vector<std::pair<int64_t, int64_t>>{
           {6, 16}, {5, 32}, {4, 48}, {3, 64}, {2, 80}, {1, 96}, {1, 112}, {2, 128}}) {
    SCOPED_TRACE(std::to_string(heads) + " heads of " + std::to_string(width));
    const Problem p = of_lengths(lengths, heads, width);
    expect_softmax_of_scores(p);
    expect_reference_gradient(p);
  }
}

/// More sequences than a warp has lanes, and than its square; every third is empty.
TEST_P(AttentionTest, ManySequences) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < 60; ++s) lengths.push_back(s % 3 * (s % 7 * 4 + 1));
  const Problem p = of_lengths(lengths, 2, 16);
  expect_softmax_of_scores(p);
  expect_reference_gradient(p);
  lengths.clear();
  for (int64_t s = 0; s < 1100; ++s) lengths.push_back(s % 3);
  lengths.push_back(20);
  expect_softmax_of_scores(of_lengths(lengths, 1, 16));
}

void AttentionTest::expect_same_bits(const Problem& p) {
  const ConstTensorView qkv = random({p.rows(), 3 * p.model()}, act(), 8);
  const ConstTensorView dout = random({p.rows(), p.model()}, act(), 9);
  const auto scale = static_cast<float>(p.scale());
  Values first;
  for (const int threads : {1, 2, 4}) {
    set_threads(threads);
    const TensorView out = output({p.rows(), p.model()}, act()), lse = output({p.heads, p.rows()}),
                     dqkv = output({p.rows(), 3 * p.model()}, act());
    ops().attention(stream(), qkv, packed(p), p.heads, scale, out, lse);
    ops().attention_backward(stream(), dout, qkv, out, lse, packed(p), p.heads, scale, dqkv);
    if (first.empty()) first = values_of(dqkv);
    EXPECT_EQ(values_of(dqkv), first) << threads << " threads";
  }
  set_threads(1);
}

/// A row attends to itself and to those before it, whatever stands behind it.
TEST_P(AttentionTest, CausalRowsSeeNothingBehindThem) {
  for (Problem p : kProblems) {
    p.causal = true;
    expect_softmax_of_scores(p);
  }
  Problem p = of_lengths({1, 15, 16, 17, 0, 54, 55, 77, 130}, 2, 32);
  p.causal = true;
  expect_softmax_of_scores(p);
  expect_reference_gradient(p);
  expect_same_bits(p);
}

TEST_P(AttentionTest, ThreadsDoNotChangeABit) {
  for (const int64_t width : {24, 64}) expect_same_bits({{0, 20, 75, 76, 140}, 2, width});
}

/// Columns [first, first + width) of some rows of a host tensor.
Tensor part_of(const Tensor& x, const std::vector<int64_t>& rows, int64_t first, int64_t width) {
  Tensor part({static_cast<int64_t>(rows.size()), width}, x.dtype());
  const auto size = static_cast<int64_t>(size_of(x.dtype()));
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(static_cast<std::byte*>(part.view().data) + static_cast<int64_t>(i) * width * size,
                static_cast<const std::byte*>(x.view().data) + (rows[i] * x.shape()[1] + first) * size,
                static_cast<size_t>(width * size));
  return part;
}

/// Some queries against all keys give these queries' rows of the whole attention, and the gradient of a loss
/// that reads nothing else. One sequence has no query.
void AttentionTest::expect_rows_of_the_whole(const Problem& p) {
  const std::vector<int64_t> rows = {0, 3, 49, 50, 51, 90, 150, 151}, starts = {0, 3, 7, 8, 8};
  const int64_t model = p.model(), count = static_cast<int64_t>(rows.size());
  const auto scale = static_cast<float>(p.scale());
  const Sequences keys = sequences(p.starts), queries = sequences(starts);
  const Tensor start = random_tensor({p.rows(), 3 * model}, act(), 11);
  std::vector<int64_t> every(at(p.rows()));
  std::iota(every.begin(), every.end(), 0);
  const ConstTensorView qkv = input(start), q = input(part_of(start, rows, 0, model)),
                        kv = input(part_of(start, every, model, 2 * model));
  const TensorView whole = output({p.rows(), model}, act()), whole_lse = output({p.heads, p.rows()});
  ops().attention(stream(), qkv, keys, p.heads, scale, whole, whole_lse);
  const TensorView out = output({count, model}, act()), lse = output({p.heads, count});
  ops().query_attention(stream(), q, kv, queries, keys, p.heads, scale, out, lse);
  expect_close(out, host_values(part_of(host_copy(whole), rows, 0, model)), bound(), "out");

  const Tensor dout = random_tensor({count, model}, act(), 12);
  Tensor whole_dout({p.rows(), model}, act());
  const auto bytes = static_cast<size_t>(model) * size_of(act());
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(whole_dout.view().rows(rows[i], 1).data, dout.view().rows(static_cast<int64_t>(i), 1).data,
                bytes);
  const TensorView dqkv = output({p.rows(), 3 * model}, act());
  ops().attention_backward(stream(), input(whole_dout), qkv, whole, whole_lse, keys, p.heads, scale, dqkv);
  const Tensor expected = host_copy(dqkv);
  const TensorView dq = output({count, model}, act()), dkv = output({p.rows(), 2 * model}, act());
  ops().query_attention_backward(stream(), input(dout), q, kv, out, lse, queries, keys, p.heads, scale, dq,
                                 dkv);
  expect_close(dq, host_values(part_of(expected, rows, 0, model)), bound(), "dq");
  expect_close(dkv, host_values(part_of(expected, every, model, 2 * model)), bound(), "dkv");
}

TEST_P(AttentionTest, SomeQueriesAreRowsOfTheWhole) {
  for (const int64_t width : {40, 64}) expect_rows_of_the_whole({{0, 50, 151, 152, 160}, 3, width});
}

TEST_P(AttentionTest, ProbabilitiesOfOneQuery) {
  const Problem p{{0, 17, 34}, 2, 24};
  const ConstTensorView qkv = random({p.rows(), 3 * p.model()}, act(), 10);
  const TensorView probs = output({2, 2, 17});
  ops().attention_probabilities(stream(), qkv, sequences(p.starts), p.heads, static_cast<float>(p.scale()), 0,
                                probs);
  expect_close(probs, attend(values_of(qkv), p).probabilities, 5e-6, "probabilities");
  EXPECT_THROW(ops().attention_probabilities(stream(), qkv, sequences(p.starts), p.heads, 1, 17, probs),
               InternalError);
}

TEST_P(AttentionTest, RejectsWhatItCannotDo) {
  const ConstTensorView qkv = random({4, 3 * 12}, act(), 1), fits = random({4, 3 * 16}, act(), 2);
  const TensorView out = output({4, 12}, act()), fitting_out = output({4, 16}, act());
  const auto attend_to = [&](const Sequences& s) {
    ops().attention(stream(), fits, s, 2, 1, fitting_out, {});
  };
  EXPECT_THROW(ops().attention(stream(), qkv, sequences({0, 4}), 5, 1, out, {}),
               InternalError);  // 12 columns for 5 heads
  EXPECT_THROW(attend_to(sequences({0, 3})), InternalError);
  EXPECT_THROW(attend_to({{}, 4, 4}), InternalError);
  EXPECT_THROW(attend_to({list({0, 4}), 4, 3}), InternalError);
  EXPECT_NO_THROW(attend_to(sequences({0, 4})));
  if (!ops().memory().device().is_host()) return;  // elsewhere nobody reads the starts before the operator
  EXPECT_THROW(attend_to({list({0, 3}), 4, 4}), InternalError);
  EXPECT_THROW(attend_to({list({0, 3, 2, 4}), 4, 3}), InternalError);
  EXPECT_THROW(attend_to({list({0, 1, 4}), 4, 2}), InternalError);
  const ConstTensorView q = random({4, 16}, act(), 3), kv = random({4, 2 * 16}, act(), 4);
  EXPECT_THROW(ops().query_attention(stream(), q, kv, sequences({0, 2, 4}), sequences({0, 4, 4}), 2, 1,
                                     fitting_out, {}),
               InternalError);  // a query without keys
}

}  // namespace
}  // namespace dino::ops::testing
