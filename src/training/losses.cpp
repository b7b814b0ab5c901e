// SPDX-License-Identifier: Apache-2.0
#include "training/losses.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.hpp"

namespace dino {
namespace {

/// Rows of the exponential matrix that are read twice in a row should still be in cache.
constexpr int64_t kCacheBytes = int64_t{4} << 20;

int64_t cache_rows(int64_t prototypes) {
  return std::max<int64_t>(1, kCacheBytes / (prototypes * static_cast<int64_t>(sizeof(float))));
}

/// The state of one Sinkhorn problem.
struct Problem {
  TensorView e;  ///< [n, K]
  TensorView v;  ///< [n]
  TensorView u;  ///< [K], a part of the buffer that is reduced

  /// v = 1 / (E u) when u is given; then sums += E^T v, block by block.
  void pass(const Context& c, bool rows_first, bool columns, TensorView sums) const {
    const int64_t n = e.dim(0);
    const int64_t step = cache_rows(e.dim(1));
    for (int64_t begin = 0; begin < n; begin += step) {
      const int64_t count = std::min(step, n - begin);
      const TensorView block = e.rows(begin, count);
      const TensorView scale = v.rows(begin, count);
      if (rows_first) {
        c.ops.matrix_vector(c.stream, block, u, scale);
        c.ops.reciprocal(c.stream, scale, std::numeric_limits<float>::infinity(), scale);
      }
      if (columns) c.ops.weighted_column_sums(c.stream, block, scale, sums);
    }
  }
};

}  // namespace

void sinkhorn(const Context& c, std::span<const TensorView> problems, double temperature,
              int64_t iterations) {
  DINO_CHECK(iterations >= 1, "Sinkhorn needs an iteration");
  const Arena::Scope scope(c.arena);
  const auto t = static_cast<float>(temperature);
  int64_t columns = 0;
  for (const TensorView& x : problems) columns += x.dim(1);
  const TensorView u = c.arena.make(Shape{columns});
  const TensorView sums = c.arena.make(Shape{columns});
  const TensorView maxima = c.arena.make(Shape{static_cast<int64_t>(problems.size())});

  std::vector<Problem> state;
  int64_t first = 0;
  for (size_t p = 0; p < problems.size(); ++p) {
    const TensorView& x = problems[p];
    const int64_t k = x.dim(1);
    state.push_back({x, c.arena.make(Shape{x.dim(0)}), u.rows(first, k)});
    c.ops.exp_rows(c.stream, x, t, state[p].v);
    c.ops.maximum(c.stream, state[p].v, maxima.rows(static_cast<int64_t>(p), 1));
    first += k;
  }
  c.stream.wait(c.collective.all_reduce(c.stream, maxima, ReduceOp::max));
  for (size_t p = 0; p < state.size(); ++p)
    c.ops.exp_relative(c.stream, state[p].v, maxima.rows(static_cast<int64_t>(p), 1), t);

  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    fill(c.stream, sums, 0);
    first = 0;
    for (const Problem& problem : state) {
      const int64_t k = problem.e.dim(1);
      problem.pass(c, iteration > 0, true, sums.rows(first, k));
      first += k;
    }
    c.stream.wait(c.collective.all_reduce(c.stream, sums));
    // A prototype without any mass (or a problem without rows) gets none; NaN stays NaN and is noticed.
    c.ops.reciprocal(c.stream, sums, 0, u);
  }
  for (const Problem& problem : state) {
    problem.pass(c, true, false, {});
    if (problem.e.dim(0) > 0) c.ops.scale_rows_columns(c.stream, problem.e, problem.v, problem.u);
  }
}

SoftmaxCentre::SoftmaxCentre(int64_t prototypes, double momentum, Memory& memory)
    : momentum_(momentum),
      centre_(Shape{prototypes}, DType::f32, memory),
      pending_(Shape{prototypes}, DType::f32, memory) {}

void SoftmaxCentre::targets(const Context& c, TensorView logits, int64_t all_rows, double temperature) {
  const Arena::Scope scope(c.arena);
  const int64_t k = logits.dim(1);
  DINO_CHECK(k == centre_.numel(), "centre and logits differ in width");
  if (all_rows == 0) return;
  const TensorView sums = c.arena.zeros(c.stream, Shape{k});
  if (logits.dim(0) > 0) c.ops.weighted_column_sums(c.stream, logits, {}, sums);
  c.stream.wait(c.collective.all_reduce(c.stream, sums));
  c.ops.ema(c.stream, centre_, pending_, static_cast<float>(momentum_), {});
  c.ops.scale(c.stream, static_cast<float>(1.0 / static_cast<double>(all_rows)), sums, pending_);
  if (logits.dim(0) > 0) c.ops.softmax_centred(c.stream, logits, centre_, static_cast<float>(temperature));
}

SoftmaxCentre::State SoftmaxCentre::state(Stream& stream) const {
  Tensor centre(centre_.shape()), pending(pending_.shape());
  copy(stream, centre, centre_);
  copy(stream, pending, pending_);
  stream.synchronize();
  const auto widened = [](const Tensor& x) { return std::vector<double>(x.f32().begin(), x.f32().end()); };
  return {widened(centre), widened(pending)};
}

void SoftmaxCentre::restore(Stream& stream, const State& state) {
  const auto put = [&](const std::vector<double>& values, Tensor& to) {
    DINO_CHECK(static_cast<int64_t>(values.size()) == to.numel(), "centres of another number of prototypes");
    Tensor narrow(to.shape());
    std::transform(values.begin(), values.end(), narrow.f32().begin(),
                   [](double x) { return static_cast<float>(x); });
    copy(stream, to, narrow);
  };
  put(state.centre, centre_);
  put(state.pending, pending_);
}

int64_t logits_chunk_rows(int64_t prototypes) {
  return std::clamp<int64_t>((int64_t{1} << 24) / prototypes, 64, 256);
}

ConstTensorView prototype_logits(const Context& c, ConstTensorView unit, ConstTensorView prototypes,
                                 TensorView logits) {
  const ConstTensorView x = in_dtype(c, unit, prototypes.dtype);
  c.ops.linear(c.stream, x, prototypes, {}, ops::Activation::none, logits, {});
  return x;
}

void prototype_cross_entropy(const Context& c, ConstTensorView unit, ConstTensorView prototypes,
                             std::span<const TargetRows> segments, double temperature, ConstTensorView weight,
                             TensorView loss, TensorView d_unit, TensorView d_prototypes) {
  const int64_t rows = unit.dim(0);
  const int64_t k = prototypes.dim(0);
  int64_t covered = 0;
  for (const TargetRows& segment : segments) {
    DINO_CHECK(segment.first == covered, "target segments leave a gap");
    covered += segment.targets.dim(0);
  }
  DINO_CHECK(covered == rows, "target segments do not cover the rows");

  const Arena::Scope scope(c.arena);
  const int64_t step = std::min(rows, logits_chunk_rows(k));
  const TensorView buffer = c.arena.make(Shape{step, k});
  size_t s = 0;
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(begin + step, rows);
    const Arena::Scope chunk(c.arena);
    const TensorView logits = buffer.rows(0, end - begin);
    const ConstTensorView x = prototype_logits(c, unit.rows(begin, end - begin), prototypes, logits);
    // A chunk may hold the ends of several segments.
    for (int64_t row = begin; row < end;) {
      const TargetRows& segment = segments[s];
      const int64_t segment_end = segment.first + segment.targets.dim(0);
      const int64_t count = std::min(end, segment_end) - row;
      if (count > 0)
        c.ops.cross_entropy(c.stream, logits.rows(row - begin, count),
                            segment.targets.rows(row - segment.first, count), static_cast<float>(temperature),
                            weight.rows(row, count), loss.rows(row, count));
      row += count;
      if (row == segment_end) ++s;
    }
    const ConstTensorView d_logits = in_dtype(c, logits, prototypes.dtype);
    c.ops.linear_backward_input(c.stream, d_logits, prototypes, d_unit.rows(begin, end - begin), false);
    c.ops.linear_backward_weight(c.stream, d_logits, x, d_prototypes, {});
  }
}

}  // namespace dino
