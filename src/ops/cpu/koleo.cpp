// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/host.hpp"
#include "ops/koleo.hpp"

namespace dino::ops {
namespace {

/// By own row, the anchors whose terms it collects, ascending: its own, and those whose neighbour it is.
struct Anchors {
  std::vector<int64_t> starts, anchors;

  void build(const HostRows& neighbours, int64_t total, int64_t first, int64_t own) {
    const auto each = [&](auto&& visit) {
      for (int64_t a = 0; a < total; ++a) {
        const int64_t anchor = a - first, neighbour = neighbours[a] - first;
        if (anchor >= 0 && anchor < own) visit(static_cast<size_t>(anchor), a);
        if (neighbour >= 0 && neighbour < own && neighbour != anchor)
          visit(static_cast<size_t>(neighbour), a);
      }
    };
    starts.assign(static_cast<size_t>(own) + 1, 0);
    each([&](size_t row, int64_t) { ++starts[row + 1]; });
    for (size_t row = 0; row < static_cast<size_t>(own); ++row) starts[row + 1] += starts[row];
    anchors.resize(static_cast<size_t>(starts.back()));
    // Each row's start moves to its end while it fills up, and is then the next row's start.
    each([&](size_t row, int64_t a) { anchors[static_cast<size_t>(starts[row]++)] = a; });
    for (size_t row = static_cast<size_t>(own); row > 0; --row) starts[row] = starts[row - 1];
    starts[0] = 0;
  }
  [[nodiscard]] std::span<const int64_t> of(int64_t row) const {
    const auto begin = static_cast<size_t>(starts[static_cast<size_t>(row)]);
    return std::span(anchors).subspan(begin,
                                      static_cast<size_t>(starts[static_cast<size_t>(row) + 1]) - begin);
  }
};

}  // namespace

void CpuBackend::nearest_other(Stream&, ConstTensorView dots, int64_t first, TensorView index) {
  check::nearest_other(dots, first, index);
  const int64_t columns = dots.dim(1);
  const float* in = dots.as<float>();
  int64_t* out = index.as<int64_t>();
  parallel_for(dots.dim(0), columns, [&](int64_t r) {
    const float* row = in + r * columns;
    const int64_t own = first + r;
    float before = 0, after = 0;
    const int64_t left = kernels().first_largest(row, own, &before);
    const int64_t right = kernels().first_largest(row + own + 1, columns - own - 1, &after);
    if (left >= 0 && (right < 0 || before >= after))
      out[r] = left;
    else if (right >= 0)
      out[r] = own + 1 + right;
    else
      out[r] = own == 0 ? 1 : 0;
  });
}

void CpuBackend::koleo(Stream&, ConstTensorView x, ConstTensorView neighbours, int64_t first, double weight,
                       TensorView loss, TensorView dx) {
  check::koleo(x, neighbours, first, loss, dx);
  const int64_t total = x.dim(0), own = dx.dim(0), d = x.dim(1);
  if (own == 0) return;
  const HostRows nearest(neighbours, total);
  thread_local Anchors lists;
  thread_local Scratch scratch;
  Anchors& anchors = lists;  // the caller's, in all threads
  anchors.build(nearest, total, first, own);
  auto* distances = static_cast<double*>(scratch.bytes(static_cast<size_t>(total) * sizeof(double)));
  const float* in = x.as<float>();
  float* out = dx.as<float>();
  const double share = 1.0 / static_cast<double>(total);
  const auto is_own = [&](int64_t row) { return row >= first && row < first + own; };
  parallel_for(total, d, [&](int64_t a) {
    if (is_own(a) || is_own(nearest[a]))
      distances[a] = std::sqrt(kernels().distance_squares(in + a * d, in + nearest[a] * d, kKoleoEps, d));
  });
  double sum = 0;
  for (int64_t a = first; a < first + own; ++a) sum += koleo_loss(distances[a]) * share;
  *loss.as<double>() += sum;
  parallel_for(own, 4 * d, [&](int64_t r) {
    float* gradient = out + r * d;
    std::fill_n(gradient, d, 0.0f);
    for (const int64_t a : anchors.of(r)) {
      if (distances[a] < kKoleoResolution) continue;
      const double scale = koleo_slope(distances[a]) * weight * share;
      const auto add = [&](double sign) {
        kernels().add_difference(in + a * d, in + nearest[a] * d, kKoleoEps, sign * scale, gradient, d);
      };
      if (a == first + r) add(1);
      if (nearest[a] == first + r) add(-1);
    }
  });
}

}  // namespace dino::ops
