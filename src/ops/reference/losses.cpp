// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {

void ReferenceBackend::cross_entropy(TensorView logits, ConstTensorView targets, float temperature,
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

void ReferenceBackend::exp_scaled(TensorView x, float shift, float temperature) {
  check::same_f32({x});
  for (int64_t i = 0; i < x.numel(); ++i)
    Writer(x).set(i,
                  std::exp((Reader(x)[i] - static_cast<double>(shift)) / static_cast<double>(temperature)));
}

void ReferenceBackend::weighted_column_sums(ConstTensorView x, ConstTensorView weight, TensorView out) {
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

void ReferenceBackend::matrix_vector(ConstTensorView x, ConstTensorView u, TensorView out) {
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

void ReferenceBackend::scale_rows_columns(TensorView x, ConstTensorView v, ConstTensorView u) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(v, x.dim(0), false);
  check::vector(u, k, false);
  for (int64_t r = 0; r < x.dim(0); ++r)
    for (int64_t c = 0; c < k; ++c)
      Writer(x).set(r * k + c, Reader(x)[r * k + c] * Reader(v)[r] * Reader(u)[c]);
}

void ReferenceBackend::softmax_centred(TensorView x, ConstTensorView centre, float temperature) {
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

void ReferenceBackend::adamw(std::span<float> w, std::span<const float> gradient, std::span<float> m,
                             std::span<float> v, const AdamW& settings) {
  DINO_CHECK(w.size() == gradient.size() && w.size() == m.size() && w.size() == v.size(), "sizes differ");
  const double b1 = static_cast<double>(settings.beta1);
  const double b2 = static_cast<double>(settings.beta2);
  const double rate = static_cast<double>(settings.learning_rate);
  const double correct1 = 1 - std::pow(b1, static_cast<double>(settings.step));
  const double correct2 = 1 - std::pow(b2, static_cast<double>(settings.step));
  for (size_t i = 0; i < w.size(); ++i) {
    const double g = static_cast<double>(gradient[i]) * static_cast<double>(settings.gradient_scale);
    const double decayed =
        static_cast<double>(w[i]) * (1 - rate * static_cast<double>(settings.weight_decay));
    const double first = b1 * static_cast<double>(m[i]) + (1 - b1) * g;
    const double second = b2 * static_cast<double>(v[i]) + (1 - b2) * g * g;
    m[i] = static_cast<float>(first);
    v[i] = static_cast<float>(second);
    const double step = first / correct1 / (std::sqrt(second / correct2) + static_cast<double>(settings.eps));
    w[i] = static_cast<float>(decayed - rate * step);
  }
}

void ReferenceBackend::ema(std::span<float> average, std::span<const float> value, float momentum) {
  DINO_CHECK(average.size() == value.size(), "sizes differ");
  const double keep = static_cast<double>(momentum);
  for (size_t i = 0; i < average.size(); ++i)
    average[i] = static_cast<float>(keep * static_cast<double>(average[i]) +
                                    (1 - keep) * static_cast<double>(value[i]));
}

double ReferenceBackend::sum_of_squares(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

Backend& reference_backend() {
  static ReferenceBackend instance;
  return instance;
}

}  // namespace dino::ops
