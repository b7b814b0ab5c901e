// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/host.hpp"
#include "ops/koleo.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {

void ReferenceBackend::cross_entropy(Stream&, TensorView logits, ConstTensorView targets, float temperature,
                                     ConstTensorView weight, TensorView loss) {
  check::same_f32({logits, targets});
  const int64_t rows = logits.dim(0);
  const int64_t k = logits.dim(1);
  check::vector(weight, rows, true);
  check::vector(loss, rows, false);
  const double tau = static_cast<double>(temperature);
  for (int64_t r = 0; r < rows; ++r) {
    const Reader s(logits.rows(r, 1));
    const Reader t(targets.rows(r, 1));
    double top = -HUGE_VAL;
    for (int64_t i = 0; i < k; ++i) top = std::max(top, s[i] / tau);
    double sum = 0, mass = 0, along = 0;
    for (int64_t i = 0; i < k; ++i) {
      sum += std::exp(s[i] / tau - top);
      mass += t[i];
      along += t[i] * (s[i] / tau);
    }
    const double log_sum = top + std::log(sum);
    Writer(loss).set(r, mass * log_sum - along);
    if (!weight) continue;
    const double factor = Reader(weight)[r] / tau;
    for (int64_t i = 0; i < k; ++i)
      Writer(logits).set(r * k + i, factor * (std::exp(s[i] / tau - log_sum) * mass - t[i]));
  }
}

void ReferenceBackend::exp_rows(Stream&, TensorView x, float temperature, TensorView maxima) {
  check::matrix(x);
  check::vector(maxima, x.dim(0), false);
  const int64_t k = x.dim(1);
  for (int64_t r = 0; r < x.dim(0); ++r) {
    double top = -HUGE_VAL;
    for (int64_t c = 0; c < k; ++c) top = std::max(top, Reader(x)[r * k + c]);
    for (int64_t c = 0; c < k; ++c)
      Writer(x).set(r * k + c, std::exp((Reader(x)[r * k + c] - top) / static_cast<double>(temperature)));
    Writer(maxima).set(r, top);
  }
}

void ReferenceBackend::exp_relative(Stream&, TensorView x, ConstTensorView reference, float temperature) {
  check::same_f32({x});
  check::scalar(reference, DType::f32);
  for (int64_t i = 0; i < x.numel(); ++i)
    Writer(x).set(i, std::exp((Reader(x)[i] - Reader(reference)[0]) / static_cast<double>(temperature)));
}

void ReferenceBackend::weighted_column_sums(Stream&, ConstTensorView x, ConstTensorView weight,
                                            TensorView out) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(weight, x.dim(0), true);
  check::vector(out, k, false);
  for (int64_t c = 0; c < k; ++c) {
    double sum = 0;
    for (int64_t r = 0; r < x.dim(0); ++r) sum += Reader(x)[r * k + c] * (weight ? Reader(weight)[r] : 1.0);
    Writer(out).add(c, sum);
  }
}

void ReferenceBackend::matrix_vector(Stream&, ConstTensorView x, ConstTensorView u, TensorView out) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(u, k, false);
  check::vector(out, x.dim(0), false);
  for (int64_t r = 0; r < x.dim(0); ++r) {
    double sum = 0;
    for (int64_t c = 0; c < k; ++c) sum += Reader(x)[r * k + c] * Reader(u)[c];
    Writer(out).set(r, sum);
  }
}

void ReferenceBackend::scale_rows_columns(Stream&, TensorView x, ConstTensorView v, ConstTensorView u) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(v, x.dim(0), false);
  check::vector(u, k, false);
  for (int64_t r = 0; r < x.dim(0); ++r)
    for (int64_t c = 0; c < k; ++c)
      Writer(x).set(r * k + c, Reader(x)[r * k + c] * Reader(v)[r] * Reader(u)[c]);
}

void ReferenceBackend::softmax_centred(Stream&, TensorView x, ConstTensorView centre, float temperature) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(centre, k, true);
  std::vector<double> s(static_cast<size_t>(k));
  for (int64_t r = 0; r < x.dim(0); ++r) {
    double top = -HUGE_VAL;
    for (int64_t c = 0; c < k; ++c) {
      const double shifted = Reader(x)[r * k + c] - (centre ? Reader(centre)[c] : 0.0);
      s[static_cast<size_t>(c)] = shifted / static_cast<double>(temperature);
      top = std::max(top, s[static_cast<size_t>(c)]);
    }
    double sum = 0;
    for (double& value : s) sum += value = std::exp(value - top);
    for (int64_t c = 0; c < k; ++c) Writer(x).set(r * k + c, s[static_cast<size_t>(c)] / sum);
  }
}

void ReferenceBackend::nearest_other(Stream&, ConstTensorView dots, int64_t first, TensorView index) {
  check::nearest_other(dots, first, index);
  const int64_t columns = dots.dim(1);
  for (int64_t r = 0; r < dots.dim(0); ++r) {
    int64_t best = -1;
    for (int64_t c = 0; c < columns; ++c) {
      const double dot = Reader(dots)[r * columns + c];
      if (c == first + r || std::isnan(dot)) continue;
      if (best < 0 || dot > Reader(dots)[r * columns + best]) best = c;
    }
    index.as<int64_t>()[r] = best >= 0 ? best : first + r == 0 ? 1 : 0;
  }
}

void ReferenceBackend::koleo(Stream&, ConstTensorView x, ConstTensorView neighbours, int64_t first,
                             double weight, TensorView loss, TensorView dx) {
  check::koleo(x, neighbours, first, loss, dx);
  const HostRows nearest(neighbours, x.dim(0));
  const int64_t total = x.dim(0), own = dx.dim(0), d = x.dim(1);
  const auto difference = [&](int64_t anchor, int64_t c) {
    return Reader(x)[anchor * d + c] - Reader(x)[nearest[anchor] * d + c] + static_cast<double>(kKoleoEps);
  };
  std::vector<double> gradient(static_cast<size_t>(total * d));
  double sum = 0;
  for (int64_t a = 0; a < total; ++a) {
    double squares = 0;
    for (int64_t c = 0; c < d; ++c) squares += difference(a, c) * difference(a, c);
    const double distance = std::sqrt(squares);
    if (a >= first && a < first + own) sum += koleo_loss(distance) / static_cast<double>(total);
    if (distance < kKoleoResolution) continue;
    const double slope = koleo_slope(distance) * weight / static_cast<double>(total);
    for (int64_t c = 0; c < d; ++c) {
      gradient[static_cast<size_t>(a * d + c)] += slope * difference(a, c);
      gradient[static_cast<size_t>(nearest[a] * d + c)] -= slope * difference(a, c);
    }
  }
  *loss.as<double>() += sum;
  for (int64_t i = 0; i < own * d; ++i) Writer(dx).set(i, gradient[static_cast<size_t>(first * d + i)]);
}

}  // namespace dino::ops
