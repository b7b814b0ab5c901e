// SPDX-License-Identifier: Apache-2.0
#include "training/health.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.hpp"

namespace dino {
namespace {

double plogp(double p) {
  return p > 0 ? -p * std::log(p) : 0.0;
}

struct Tridiagonal {
  std::vector<double> diagonal, off;  ///< off[i] couples i and i + 1
};

/// A <- H A H with reflectors H = I - 2 w w^T that clear one column below the sub-diagonal at a time.
Tridiagonal tridiagonalise(std::vector<double>& a, int64_t n) {
  const auto at = [&](int64_t i, int64_t j) -> double& { return a[static_cast<size_t>(i * n + j)]; };
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < i; ++j) at(j, i) = at(i, j);
  Tridiagonal t;
  std::vector<double> w(static_cast<size_t>(n)), p(static_cast<size_t>(n));
  for (int64_t k = 0; k + 2 < n; ++k) {
    double norm = 0;
    for (int64_t i = k + 1; i < n; ++i) norm += at(i, k) * at(i, k);
    norm = std::sqrt(norm);
    double rest = 0;
    for (int64_t i = k + 2; i < n; ++i) rest += std::abs(at(i, k));
    if (rest == 0) continue;
    const double alpha = at(k + 1, k) > 0 ? -norm : norm;
    double length = 0;
    for (int64_t i = k + 1; i < n; ++i) {
      w[static_cast<size_t>(i)] = at(i, k) - (i == k + 1 ? alpha : 0.0);
      length += w[static_cast<size_t>(i)] * w[static_cast<size_t>(i)];
    }
    length = std::sqrt(length);
    for (int64_t i = k + 1; i < n; ++i) w[static_cast<size_t>(i)] /= length;
    // With p = A w and c = w.p, the trailing block becomes A - 2 (w q^T + q w^T), q = p - c w.
    double c = 0;
    for (int64_t i = k + 1; i < n; ++i) {
      double sum = 0;
      for (int64_t j = k + 1; j < n; ++j) sum += at(i, j) * w[static_cast<size_t>(j)];
      p[static_cast<size_t>(i)] = sum;
      c += sum * w[static_cast<size_t>(i)];
    }
    for (int64_t i = k + 1; i < n; ++i) p[static_cast<size_t>(i)] -= c * w[static_cast<size_t>(i)];
    for (int64_t i = k + 1; i < n; ++i)
      for (int64_t j = k + 1; j < n; ++j)
        at(i, j) -= 2 * (w[static_cast<size_t>(i)] * p[static_cast<size_t>(j)] +
                         p[static_cast<size_t>(i)] * w[static_cast<size_t>(j)]);
    at(k + 1, k) = alpha;
  }
  for (int64_t i = 0; i < n; ++i) {
    t.diagonal.push_back(at(i, i));
    if (i + 1 < n) t.off.push_back(at(i + 1, i));
  }
  return t;
}

/// Eigenvalues below x = negative pivots of T - x I.
int64_t count_below(const Tridiagonal& t, double x) {
  int64_t count = 0;
  double pivot = 1;
  for (size_t i = 0; i < t.diagonal.size(); ++i) {
    const double off = i == 0 ? 0.0 : t.off[i - 1];
    pivot = t.diagonal[i] - x - off * off / pivot;
    if (pivot == 0) pivot = -std::numeric_limits<double>::min();
    if (pivot < 0) ++count;
  }
  return count;
}

}  // namespace

std::vector<double> symmetric_eigenvalues(std::vector<double> matrix, int64_t n) {
  DINO_CHECK(static_cast<int64_t>(matrix.size()) == n * n, "not a square matrix");
  const Tridiagonal t = tridiagonalise(matrix, n);
  double bound = 0;  // Gershgorin
  bool finite = true;
  for (size_t i = 0; i < t.diagonal.size(); ++i) {
    finite = finite && std::isfinite(t.diagonal[i]) && (i == 0 || std::isfinite(t.off[i - 1]));
    bound = std::max(bound, std::abs(t.diagonal[i]) + (i > 0 ? std::abs(t.off[i - 1]) : 0.0) +
                                (i < t.off.size() ? std::abs(t.off[i]) : 0.0));
  }
  std::vector<double> values;
  if (!finite) {
    values.assign(static_cast<size_t>(n), std::numeric_limits<double>::quiet_NaN());
    return values;
  }
  bound = bound * (1 + 1e-12) + std::numeric_limits<double>::min();
  for (int64_t k = 0; k < n; ++k) {
    double low = values.empty() ? -bound : values.back();
    double high = bound;
    for (int step = 0; step < 60 && high - low > 1e-15 * bound; ++step) {
      const double middle = 0.5 * (low + high);
      (count_below(t, middle) > k ? high : low) = middle;
    }
    values.push_back(0.5 * (low + high));
  }
  return values;
}

TargetHealth target_health(ConstTensorView targets, const Communicator& comm, Arena& arena,
                           ops::Backend& backend) {
  const Arena::Scope scope(arena);
  const int64_t rows = targets.dim(0);
  const int64_t k = targets.dim(1);
  // [0, K): column sums; [K, 2K): how many rows have their maximum there; one reduction for both.
  const TensorView sums = arena.zeros(Shape{2 * k});
  backend.weighted_column_sums(targets, {}, sums.rows(0, k));
  std::vector<double> entropy(static_cast<size_t>(rows));
  std::vector<int64_t> argmax(static_cast<size_t>(rows));
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const std::span<const float> row = targets.rows(r, 1).f32();
    double sum = 0;
    int64_t best = 0;
    for (int64_t i = 0; i < k; ++i) {
      const float p = row[static_cast<size_t>(i)];
      if (p > 0.0F) sum -= static_cast<double>(p * std::log(p));
      if (p > row[static_cast<size_t>(best)]) best = i;
    }
    entropy[static_cast<size_t>(r)] = sum;
    argmax[static_cast<size_t>(r)] = best;
  }
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) {
    total += entropy[static_cast<size_t>(r)];
    sums.f32()[static_cast<size_t>(k + argmax[static_cast<size_t>(r)])] += 1.0F;
  }
  comm.all_reduce(sums.f32());
  std::array<double, 2> scalars{total, static_cast<double>(rows)};
  comm.all_reduce(std::span<double>(scalars));
  const double all_rows = scalars[1];
  TargetHealth health;
  health.mean_entropy = scalars[0] / all_rows;
  const std::span<const float> s = sums.f32();
  int64_t used = 0;
  for (int64_t i = 0; i < k; ++i) {
    health.entropy_of_mean += plogp(static_cast<double>(s[static_cast<size_t>(i)]) / all_rows);
    used += s[static_cast<size_t>(k + i)] > 0.0F ? 1 : 0;
  }
  health.usage = static_cast<double>(used) / static_cast<double>(k);
  return health;
}

namespace {

double unit_std(const GatheredRows& unit) {
  const auto width = static_cast<size_t>(unit.width());
  const int64_t rows = unit.total() * unit.views();
  std::vector<double> sum(width), squares(width);
  for (int rank = 0; rank < static_cast<int>(unit.counts.size()); ++rank)
    for (int64_t view = 0; view < unit.views(); ++view) {
      const std::span<const float> x = unit.part(rank, view).f32();
      for (size_t i = 0; i < x.size(); ++i) {
        const auto value = static_cast<double>(x[i]);
        sum[i % width] += value;
        squares[i % width] += value * value;
      }
    }
  double mean_std = 0;
  for (size_t c = 0; c < sum.size(); ++c) {
    const double mean = sum[c] / static_cast<double>(rows);
    mean_std += std::sqrt(std::max(squares[c] / static_cast<double>(rows) - mean * mean, 0.0));
  }
  return mean_std / std::sqrt(static_cast<double>(width));
}

double effective_rank(const GatheredRows& unit, Arena& arena, ops::Backend& backend) {
  const Arena::Scope scope(arena);
  const int64_t images = unit.total();
  const int64_t n = std::min(images, kRankRows);
  const TensorView rows = arena.make(Shape{n, unit.width()});
  int64_t first = 0;
  int64_t picked = 0;
  for (int rank = 0; rank < static_cast<int>(unit.counts.size()); ++rank) {
    const ConstTensorView part = unit.part(rank, 0);
    for (; picked < n && picked * images / n < first + part.dim(0); ++picked)
      std::memcpy(rows.rows(picked, 1).data, part.rows(picked * images / n - first, 1).data,
                  static_cast<size_t>(unit.width()) * sizeof(float));
    first += part.dim(0);
  }
  const TensorView gram = arena.make(Shape{n, n});
  backend.linear(rows, rows, {}, ops::Activation::none, gram, {});
  const std::span<const float> g = gram.f32();
  const std::vector<double> eigenvalues = symmetric_eigenvalues({g.begin(), g.end()}, n);
  // What f32 products cannot tell from 0 is 0.
  const double floor = eigenvalues.back() * static_cast<double>(n) * 1.2e-7;
  double sum = 0;
  for (const double value : eigenvalues) sum += value > floor ? std::sqrt(value) : 0.0;
  double entropy = 0;
  for (const double value : eigenvalues)
    if (value > floor) entropy += plogp(std::sqrt(value) / sum);
  return std::exp(entropy);
}

}  // namespace

FeatureHealth feature_health(const GatheredRows& unit, Arena& arena, ops::Backend& backend) {
  return {unit_std(unit), effective_rank(unit, arena, backend)};
}

}  // namespace dino
