// SPDX-License-Identifier: Apache-2.0
#include "training/losses.hpp"

#include <algorithm>
#include <array>
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

float maximum(std::span<const float> values) {
  float best = -std::numeric_limits<float>::infinity();
  for (const float value : values) best = value > best ? value : best;
  return best;
}

/// x <- exp((x - m_b) / T) by rows; shift[b] = m_b. Returns the largest m_b.
double exponentiate(TensorView x, TensorView shift, double temperature, ops::Backend& backend) {
  const int64_t rows = x.dim(0);
  const std::span<float> m = shift.f32();
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const TensorView row = x.rows(r, 1);
    const float best = maximum(row.f32());
    m[static_cast<size_t>(r)] = best;
    backend.exp_scaled(row, best, static_cast<float>(temperature));
  }
  return rows == 0 ? -std::numeric_limits<double>::infinity() : static_cast<double>(maximum(m));
}

/// The state of one Sinkhorn problem.
struct Problem {
  TensorView e;  ///< [n, K]
  TensorView v;  ///< [n]
  TensorView u;  ///< [K], a part of the buffer that is reduced

  /// v = 1 / (E u) when u is given; then sums += E^T v, block by block.
  void pass(bool rows_first, bool columns, TensorView sums, ops::Backend& backend) const {
    const int64_t n = e.dim(0);
    const int64_t step = cache_rows(e.dim(1));
    for (int64_t begin = 0; begin < n; begin += step) {
      const int64_t count = std::min(step, n - begin);
      const TensorView block = e.rows(begin, count);
      const TensorView scale = v.rows(begin, count);
      if (rows_first) {
        backend.matrix_vector(block, u, scale);
        for (float& value : scale.f32()) value = 1.0F / value;
      }
      if (columns) backend.weighted_column_sums(block, scale, sums);
    }
  }
};

}  // namespace

void sinkhorn(std::span<const TensorView> problems, double temperature, int64_t iterations,
              const Communicator& comm, Arena& arena, ops::Backend& backend) {
  DINO_CHECK(iterations >= 1, "Sinkhorn needs an iteration");
  const Arena::Scope scope(arena);
  int64_t columns = 0;
  for (const TensorView& x : problems) columns += x.dim(1);
  const TensorView u = arena.make(Shape{columns});
  const TensorView sums = arena.make(Shape{columns});

  std::vector<Problem> state;
  std::vector<double> maxima;
  int64_t first = 0;
  for (const TensorView& x : problems) {
    const int64_t k = x.dim(1);
    state.push_back({x, arena.make(Shape{x.dim(0)}), u.rows(first, k)});
    maxima.push_back(exponentiate(x, state.back().v, temperature, backend));
    first += k;
  }
  comm.all_reduce(std::span<double>(maxima), ReduceOp::max);
  for (size_t p = 0; p < state.size(); ++p)
    for (float& v : state[p].v.f32())
      v = static_cast<float>(std::exp((static_cast<double>(v) - maxima[p]) / temperature));

  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    sums.zero();
    first = 0;
    for (const Problem& problem : state) {
      const int64_t k = problem.e.dim(1);
      problem.pass(iteration > 0, true, sums.rows(first, k), backend);
      first += k;
    }
    comm.all_reduce(sums.f32());
    // A prototype without any mass (or a problem without rows) gets none; NaN stays NaN and is noticed.
    const std::span<const float> s = sums.f32();
    const std::span<float> out = u.f32();
    for (size_t k = 0; k < out.size(); ++k) out[k] = s[k] == 0.0F ? 0.0F : 1.0F / s[k];
  }
  for (const Problem& problem : state) {
    problem.pass(true, false, {}, backend);
    if (problem.e.dim(0) > 0) backend.scale_rows_columns(problem.e, problem.v, problem.u);
  }
}

SoftmaxCentre::SoftmaxCentre(int64_t prototypes, double momentum)
    : momentum_(momentum),
      centre_(static_cast<size_t>(prototypes), 0.0F),
      pending_(static_cast<size_t>(prototypes), 0.0F) {}

void SoftmaxCentre::targets(TensorView logits, double temperature, const Communicator& comm, Arena& arena,
                            ops::Backend& backend) {
  const Arena::Scope scope(arena);
  const int64_t k = logits.dim(1);
  DINO_CHECK(k == static_cast<int64_t>(centre_.size()), "centre and logits differ in width");
  const TensorView sums = arena.zeros(Shape{k});
  if (logits.dim(0) > 0) backend.weighted_column_sums(logits, {}, sums);
  comm.all_reduce(sums.f32());
  const int64_t rows = comm.sum(logits.dim(0));
  if (rows == 0) return;

  const auto momentum = static_cast<float>(momentum_);
  const auto rest = static_cast<float>(1.0 - momentum_);
  for (size_t i = 0; i < centre_.size(); ++i) centre_[i] = centre_[i] * momentum + pending_[i] * rest;
  const std::span<const float> s = sums.f32();
  for (size_t i = 0; i < pending_.size(); ++i) pending_[i] = s[i] / static_cast<float>(rows);
  if (logits.dim(0) > 0)
    backend.softmax_centred(logits, view_of(static_cast<const float*>(centre_.data()), Shape{k}),
                            static_cast<float>(temperature));
}

void SoftmaxCentre::restore(std::span<const double> centre, std::span<const double> pending) {
  DINO_CHECK(centre.size() == centre_.size() && pending.size() == pending_.size(),
             "centres of another number of prototypes");
  std::transform(centre.begin(), centre.end(), centre_.begin(),
                 [](double x) { return static_cast<float>(x); });
  std::transform(pending.begin(), pending.end(), pending_.begin(),
                 [](double x) { return static_cast<float>(x); });
}

int64_t logits_chunk_rows(int64_t prototypes) {
  return std::clamp<int64_t>((int64_t{1} << 24) / prototypes, 64, 256);
}

void prototype_cross_entropy(ConstTensorView unit, ConstTensorView prototypes,
                             std::span<const TargetRows> segments, double temperature, ConstTensorView weight,
                             TensorView loss, TensorView d_unit, TensorView d_prototypes, Arena& arena,
                             ops::Backend& backend) {
  const int64_t rows = unit.dim(0);
  const int64_t k = prototypes.dim(0);
  int64_t covered = 0;
  for (const TargetRows& segment : segments) {
    DINO_CHECK(segment.first == covered, "target segments leave a gap");
    covered += segment.targets.dim(0);
  }
  DINO_CHECK(covered == rows, "target segments do not cover the rows");

  const Arena::Scope scope(arena);
  const int64_t step = std::min(rows, logits_chunk_rows(k));
  const TensorView buffer = arena.make(Shape{step, k});
  size_t s = 0;
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(begin + step, rows);
    const TensorView logits = buffer.rows(0, end - begin);
    const ConstTensorView x = unit.rows(begin, end - begin);
    backend.linear(x, prototypes, {}, ops::Activation::none, logits, {});
    // A chunk may hold the ends of several segments.
    for (int64_t row = begin; row < end;) {
      const TargetRows& segment = segments[s];
      const int64_t segment_end = segment.first + segment.targets.dim(0);
      const int64_t count = std::min(end, segment_end) - row;
      if (count > 0)
        backend.cross_entropy(
            logits.rows(row - begin, count), segment.targets.rows(row - segment.first, count),
            static_cast<float>(temperature), weight.rows(row, count), loss.rows(row, count));
      row += count;
      if (row == segment_end) ++s;
    }
    backend.linear_backward_input(logits, prototypes, d_unit.rows(begin, end - begin), false);
    backend.linear_backward_weight(logits, x, d_prototypes, {});
  }
}

}  // namespace dino
