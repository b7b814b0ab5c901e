// SPDX-License-Identifier: Apache-2.0
#include "training/targets.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.hpp"

namespace dino {
namespace {

int64_t row_bytes(int64_t prototypes) {
  return prototypes * static_cast<int64_t>(sizeof(float));
}

/// Rows of the exponential matrix that are read twice in a row should still be in cache.
int64_t cache_rows(const Context& c, int64_t prototypes) {
  return std::max<int64_t>(1, c.ops.block_sizes().reread_bytes / row_bytes(prototypes));
}

/// v = 1 / (E u)
void scale_of_rows(const Context& c, ConstTensorView e, ConstTensorView u, TensorView v) {
  c.ops.matrix_vector(c.stream, e, u, v);
  c.ops.reciprocal(c.stream, v, std::numeric_limits<float>::infinity(), v);
}

/// body(first, count) for blocks of up to `step` of `rows` rows: the same whether rows are kept or made
/// again, since sums are added up in them.
template <class Body>
void for_row_blocks(int64_t rows, int64_t step, const Body& body) {
  for (int64_t first = 0; first < rows; first += step) body(first, std::min(step, rows - first));
}

}  // namespace

int64_t logits_chunk_rows(const Context& c, int64_t prototypes) {
  const ops::BlockSizes sizes = c.ops.block_sizes();
  return std::clamp(sizes.product_bytes / row_bytes(prototypes), sizes.least_rows, sizes.most_rows);
}

ConstTensorView prototype_logits(const Context& c, ConstTensorView unit, ConstTensorView prototypes,
                                 TensorView logits) {
  const ConstTensorView x = in_dtype(c, unit, prototypes.dtype);
  c.ops.linear(c.stream, x, prototypes, {}, ops::Activation::none, logits, {});
  return x;
}

TeacherTargets::TeacherTargets(const Context& c, ConstTensorView unit, ConstTensorView prototypes)
    : unit_(unit), of_prototypes_(prototypes), prototypes_(prototypes.dim(0)) {
  const int64_t rows = logits_chunk_rows(c, prototypes_);
  buffer_ = c.arena.make({rows, prototypes_});
  row_ = c.arena.make({rows});
}

TensorView TeacherTargets::logits(const Context& c, int64_t first, int64_t count) const {
  if (kept()) return whole_.rows(first, count);
  const TensorView made = buffer_.rows(0, count);
  const Arena::Scope scope(c.arena);
  (void)prototype_logits(c, unit_.rows(first, count), of_prototypes_, made);
  return made;
}

TensorView TeacherTargets::exponentials(const Context& c, int64_t first, int64_t count,
                                        TensorView maxima) const {
  const TensorView e = logits(c, first, count);
  c.ops.exp_rows(c.stream, e, temperature_, maxima);
  return e;
}

void TeacherTargets::add_columns(const Context& c, TensorView v, bool has_u, TensorView sums) const {
  for_row_blocks(rows(), logits_chunk_rows(c, prototypes_), [&](int64_t first, int64_t count) {
    const TensorView e =
        kept() ? whole_.rows(first, count) : exponentials(c, first, count, row_.rows(0, count));
    for_row_blocks(count, cache_rows(c, prototypes_), [&](int64_t row, int64_t n) {
      const TensorView scale = v.rows(first + row, n);
      if (has_u) scale_of_rows(c, e.rows(row, n), u_, scale);
      c.ops.weighted_column_sums(c.stream, e.rows(row, n), scale, sums);
    });
  });
}

void TeacherTargets::become_targets(const Context& c, TensorView block) const {
  if (kind_ == Kind::softmax) {
    c.ops.softmax_centred(c.stream, block, centre_, temperature_);
    return;
  }
  const Arena::Scope scope(c.arena);
  const TensorView v = c.arena.make({block.dim(0)});
  for_row_blocks(block.dim(0), cache_rows(c, prototypes_), [&](int64_t row, int64_t n) {
    scale_of_rows(c, block.rows(row, n), u_, v.rows(row, n));
    c.ops.scale_rows_columns(c.stream, block.rows(row, n), v.rows(row, n), u_);
  });
}

void TeacherTargets::finish(const Context& c, Kind kind) {
  kind_ = kind;
  if (kept() && whole_.dim(0) > 0) become_targets(c, whole_);
}

ConstTensorView TeacherTargets::block(const Context& c, int64_t first, int64_t count) const {
  DINO_CHECK(kind_ != Kind::logits, "targets before they are made");
  if (kept()) return whole_.rows(first, count);
  const TensorView made =
      kind_ == Kind::softmax ? logits(c, first, count) : exponentials(c, first, count, row_.rows(0, count));
  become_targets(c, made);
  return made;
}

void sinkhorn(const Context& c, std::span<TeacherTargets* const> problems, double temperature,
              int64_t iterations) {
  DINO_CHECK(iterations >= 1, "Sinkhorn needs an iteration");
  int64_t columns = 0;
  for (TeacherTargets* problem : problems) {
    problem->u_ = c.arena.make(Shape{problem->prototypes()});  // outlives the call: targets are made of it
    problem->temperature_ = static_cast<float>(temperature);
    columns += problem->prototypes();
  }
  const Arena::Scope scope(c.arena);
  const TensorView sums = c.arena.make(Shape{columns});
  const TensorView maxima = c.arena.make(Shape{static_cast<int64_t>(problems.size())});
  const auto largest = [&](size_t p) { return maxima.rows(static_cast<int64_t>(p), 1); };

  std::vector<TensorView> v;
  for (size_t p = 0; p < problems.size(); ++p) {
    const TeacherTargets& problem = *problems[p];
    v.push_back(c.arena.make(Shape{problem.rows()}));
    for_row_blocks(problem.rows(), logits_chunk_rows(c, problem.prototypes()),
                   [&](int64_t first, int64_t count) {
                     (void)problem.exponentials(c, first, count, v[p].rows(first, count));
                   });
    c.ops.maximum(c.stream, v[p], largest(p));
  }
  c.stream.wait(c.collective.all_reduce(c.stream, maxima, ReduceOp::max));
  for (size_t p = 0; p < problems.size(); ++p)
    c.ops.exp_relative(c.stream, v[p], largest(p), static_cast<float>(temperature));

  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    fill(c.stream, sums, 0);
    int64_t column = 0;
    const auto next = [&](int64_t k) { return sums.rows(std::exchange(column, column + k), k); };
    for (size_t p = 0; p < problems.size(); ++p)
      problems[p]->add_columns(c, v[p], iteration > 0, next(problems[p]->prototypes()));
    c.stream.wait(c.collective.all_reduce(c.stream, sums));
    column = 0;
    // A prototype without any mass (or a problem without rows) gets none; NaN stays NaN and is noticed.
    for (TeacherTargets* problem : problems)
      c.ops.reciprocal(c.stream, next(problem->prototypes()), 0, problem->u_);
  }
  for (TeacherTargets* problem : problems) problem->finish(c, TeacherTargets::Kind::sinkhorn);
}

SoftmaxCentre::SoftmaxCentre(int64_t prototypes, double momentum, Memory& memory)
    : momentum_(momentum),
      centre_(Shape{prototypes}, DType::f32, memory),
      pending_(Shape{prototypes}, DType::f32, memory) {}

void SoftmaxCentre::targets(const Context& c, TeacherTargets& rows, int64_t all_rows, double temperature) {
  const Arena::Scope scope(c.arena);
  const int64_t k = rows.prototypes();
  DINO_CHECK(k == centre_.numel(), "centre and logits differ in width");
  rows.temperature_ = static_cast<float>(temperature);
  rows.centre_ = centre_;
  if (all_rows > 0) {
    const TensorView sums = c.arena.zeros(c.stream, Shape{k});
    for_row_blocks(rows.rows(), logits_chunk_rows(c, k), [&](int64_t first, int64_t count) {
      c.ops.weighted_column_sums(c.stream, rows.logits(c, first, count), {}, sums);
    });
    c.stream.wait(c.collective.all_reduce(c.stream, sums));
    c.ops.ema(c.stream, centre_, pending_, static_cast<float>(momentum_), {});
    c.ops.scale(c.stream, static_cast<float>(1.0 / static_cast<double>(all_rows)), sums, pending_);
  }
  rows.finish(c, TeacherTargets::Kind::softmax);
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

}  // namespace dino
