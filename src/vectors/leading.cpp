// SPDX-License-Identifier: Apache-2.0
#include "vectors/leading.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "base/error.hpp"
#include "base/random.hpp"
#include "exact/chains.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/scan.hpp"

namespace dino {
namespace {

constexpr int64_t kLeadingRows = 128;
constexpr double kUnit = 0x1.0p-24;         // rounding unit of f32
constexpr double kRestOfEnergy = 0.04;      // above it too many pairs survive the bound
constexpr int64_t kPairSample = 2048;       // rows whose pairs tell how many survive
constexpr uint64_t kStartIndex = 1u << 31;  // of the random start, apart from the indices of seeding

/// c[i, :] = a[i, :] b^T, rows in parallel. Each element is one ordered chain whatever the split.
void parallel_gemm_nt(int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
#pragma omp parallel for schedule(dynamic) if (m * n * k > kParallelPays)
  for (int64_t begin = 0; begin < m; begin += kLeadingRows) {
    const int64_t rows = std::min(kLeadingRows, m - begin);
    exact::ordered_gemm_nt(rows, n, k, a + begin * k, k, b, k, c + begin * n, n);
  }
}

/// Second moment sum x x^T, scaled to trace 1, [d, d].
std::vector<float> second_moment(const float* sample, int64_t rows, int64_t width) {
  std::vector<float> transposed(static_cast<size_t>(rows * width));
#pragma omp parallel for
  for (int64_t k = 0; k < width; ++k) {
    for (int64_t i = 0; i < rows; ++i) transposed[static_cast<size_t>(k * rows + i)] = sample[i * width + k];
  }
  std::vector<float> moment(static_cast<size_t>(width * width));
  parallel_gemm_nt(width, width, rows, transposed.data(), transposed.data(), moment.data());
  double trace = 0;
  for (int64_t k = 0; k < width; ++k)
    trace += static_cast<double>(moment[static_cast<size_t>(k * (width + 1))]);
  if (!(trace > 0) || !std::isfinite(trace)) return {};
  for (float& value : moment) value = static_cast<float>(static_cast<double>(value) / trace);
  return moment;
}

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < n; ++k) sum += a[k] * b[k];
  return sum;
}

/// Modified Gram-Schmidt over the rows of q [m, d], twice for orthogonality to rounding. False when the rows
/// are dependent.
bool orthonormalize(std::vector<double>& q, int64_t m, int64_t width) {
  for (int pass = 0; pass < 2; ++pass) {
    for (int64_t k = 0; k < m; ++k) {
      double* row = q.data() + k * width;
      const double norm = std::sqrt(dot(row, row, width));
      if (!(norm > 1e-150)) return false;
      for (int64_t c = 0; c < width; ++c) row[c] /= norm;
#pragma omp parallel for if ((m - k) * width > kParallelPays / 8)
      for (int64_t i = k + 1; i < m; ++i) {
        double* other = q.data() + i * width;
        const double overlap = dot(row, other, width);
        for (int64_t c = 0; c < width; ++c) other[c] -= overlap * row[c];
      }
    }
  }
  return true;
}

/// Leading m-dimensional invariant subspace of `moment` by subspace iteration. Only the span matters, so a
/// few rounds do. Empty when the data have fewer than m dimensions (a random complement would serve, but then
/// nothing is gained).
std::vector<float> leading_axes(const std::vector<float>& moment, int64_t m, int64_t width) {
  constexpr int kRounds = 5;
  Random random(0, RandomStream::kmeans, kStartIndex + static_cast<uint64_t>(m));
  std::vector<double> q(static_cast<size_t>(m * width));
  for (double& value : q) value = random.normal();
  if (!orthonormalize(q, m, width)) return {};
  std::vector<float> axes(q.begin(), q.end()), next(q.size());
  for (int round = 0; round < kRounds; ++round) {
    parallel_gemm_nt(m, width, width, axes.data(), moment.data(), next.data());
    // A little of the old span keeps rows independent where the data have fewer than m dimensions.
    for (size_t i = 0; i < q.size(); ++i)
      q[i] = static_cast<double>(next[i]) + 1e-9 * static_cast<double>(axes[i]);
    if (!orthonormalize(q, m, width)) return {};
    axes.assign(q.begin(), q.end());
  }
  return axes;
}

/// Share of the energy outside the span of the axes: 1 - sum_k a_k^T M a_k.
double rest_of_energy(const std::vector<float>& moment, const std::vector<float>& axes, int64_t m,
                      int64_t width) {
  std::vector<float> image(axes.size());
  parallel_gemm_nt(m, width, width, axes.data(), moment.data(), image.data());
  double inside = 0;
  for (size_t i = 0; i < axes.size(); ++i)
    inside += static_cast<double>(axes[i]) * static_cast<double>(image[i]);
  return 1 - inside;
}

/// The first basis of m = d/8, d/4, d/2 that `accept(moment, basis)` takes, else one that cuts nothing.
template <class Accept>
LeadingBasis fit_where(const float* sample, int64_t rows, int64_t width, Accept&& accept) {
  LeadingBasis whole;
  whole.width = whole.kept = width;
  if (rows == 0 || width < 32) return whole;
  const std::vector<float> moment = second_moment(sample, rows, width);
  if (moment.empty()) return whole;
  for (const int64_t part : {8, 4, 2}) {
    LeadingBasis basis;
    basis.width = width;
    basis.kept = std::max<int64_t>(8, (width / part + 7) / 8 * 8);
    if (basis.kept * 2 > width + 16) break;
    basis.axes = leading_axes(moment, basis.kept, width);
    if (!basis.axes.empty() && accept(moment, basis)) return basis;
  }
  return whole;
}

/// How many of the listed pairs (row, other) do not reach the threshold.
int64_t count_below(const std::vector<std::pair<const float*, const float*>>& pairs, int64_t width,
                    double threshold) {
  int64_t below = 0;
  for (size_t p = 0; p < pairs.size(); p += static_cast<size_t>(exact::kChains)) {
    const float *left[exact::kChains], *right[exact::kChains];
    float products[exact::kChains];
    const size_t count = std::min(pairs.size() - p, static_cast<size_t>(exact::kChains));
    for (size_t i = 0; i < count; ++i) std::tie(left[i], right[i]) = pairs[p + i];
    exact::ordered_dots(left, right, static_cast<int64_t>(count), width, products);
    for (size_t i = 0; i < count; ++i) below += static_cast<double>(products[i]) < threshold ? 1 : 0;
  }
  return below;
}

/// Share of the pairs of (evenly spaced) sample rows that pass the bound and do not reach the threshold.
/// Ordered products throughout: the basis decides about lists.
double passing_in_vain(const LeadingBasis& basis, const float* sample, int64_t rows, double threshold) {
  const int64_t width = basis.width, stride = basis.kept + 1, n = std::min(rows, kPairSample);
  if (n < 2) return 0;
  std::vector<float> chosen(static_cast<size_t>(n * width)), keys(static_cast<size_t>(n * stride));
  for (int64_t i = 0; i < n; ++i)
    std::copy_n(sample + i * rows / n * width, width, chosen.data() + i * width);
  basis.project(chosen.data(), n, keys.data(), stride);
  const auto limit = static_cast<float>(threshold - basis.rounding());
  int64_t in_vain = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : in_vain)
  for (int64_t begin = 0; begin < n; begin += kLeadingRows) {
    const int64_t count = std::min(kLeadingRows, n - begin), columns = begin + count;
    std::vector<float> products(static_cast<size_t>(count * columns));
    exact::ordered_gemm_nt(count, columns, stride, keys.data() + begin * stride, stride, keys.data(), stride,
                           products.data(), columns);
    std::vector<std::pair<const float*, const float*>> passing;
    for (int64_t i = 0; i < count; ++i) {
      for_each_at_least(products.data() + i * columns, begin + i, limit, [&](int64_t j) {
        passing.emplace_back(chosen.data() + (begin + i) * width, chosen.data() + j * width);
      });
    }
    in_vain += count_below(passing, width, threshold);
  }
  return static_cast<double>(in_vain) / (0.5 * static_cast<double>(n) * static_cast<double>(n - 1));
}

}  // namespace

LeadingBasis LeadingBasis::fit(const float* sample, int64_t rows, int64_t width) {
  return fit_where(sample, rows, width, [&](const std::vector<float>& moment, const LeadingBasis& basis) {
    return rest_of_energy(moment, basis.axes, basis.kept, width) <= kRestOfEnergy;
  });
}

LeadingBasis LeadingBasis::fit_join(const float* sample, int64_t rows, int64_t width, double threshold,
                                    double most) {
  return fit_where(sample, rows, width, [&](const std::vector<float>&, const LeadingBasis& basis) {
    const double saved = 1 - static_cast<double>(basis.kept) / static_cast<double>(width);
    return passing_in_vain(basis, sample, rows, threshold) <= most * saved;
  });
}

double LeadingBasis::row_error() const {
  if (!cuts()) return 0;
  return std::sqrt(static_cast<double>(kept)) * (exact::rounding_of(width) + 2 * kUnit);
}

double LeadingBasis::rounding() const {
  if (!cuts()) return 0;
  return 2.1 * row_error() + 1.1 * exact::rounding_of(kept + 2) + 1.1 * exact::rounding_of(width);
}

void LeadingBasis::project(const float* rows, int64_t n, float* out, int64_t stride) const {
  DINO_CHECK(cuts() && stride > kept, "project needs a basis that cuts and room for the rest's norm");
  const double slack = 2.1 * row_error();
#pragma omp parallel for schedule(dynamic) if (n * kept * width > kParallelPays)
  for (int64_t begin = 0; begin < n; begin += kLeadingRows) {
    const int64_t count = std::min(kLeadingRows, n - begin);
    exact::ordered_gemm_nt(count, kept, width, rows + begin * width, width, axes.data(), width,
                           out + begin * stride, stride);
    for (int64_t i = begin; i < begin + count; ++i) {
      const float* row = rows + i * width;
      float* lead = out + i * stride;
      double whole = 0, inside = 0;
#pragma omp simd reduction(+ : whole)
      for (int64_t k = 0; k < width; ++k) whole += static_cast<double>(row[k]) * static_cast<double>(row[k]);
      for (int64_t k = 0; k < kept; ++k)
        inside += static_cast<double>(lead[k]) * static_cast<double>(lead[k]);
      lead[kept] = static_cast<float>(std::sqrt(std::max(0.0, whole - inside) + slack * whole) * (1 + 1e-6));
    }
  }
}

std::vector<int64_t> stratified_rows(int64_t total, int64_t count, uint64_t seed, uint64_t index) {
  DINO_CHECK(count <= total, "a sample is not larger than its source");
  Random random(seed, RandomStream::kmeans, index);
  std::vector<int64_t> rows(static_cast<size_t>(count));
  // Stratum s is [s * q + min(s, r), ...) with q = total / count, r = total % count: no overflow for any
  // total.
  const int64_t q = count > 0 ? total / count : 0, r = count > 0 ? total % count : 0;
  for (int64_t s = 0; s < count; ++s) {
    const int64_t size = q + (s < r ? 1 : 0);
    rows[static_cast<size_t>(s)] =
        s * q + std::min(s, r) + static_cast<int64_t>(random.below(static_cast<uint64_t>(size)));
  }
  return rows;
}

}  // namespace dino
