// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {

void ReferenceBackend::clip_factors(Stream&, ConstTensorView squares, double scale, double limit,
                                    TensorView factors) {
  check::clip_factors(squares, scale, limit, factors);
  for (int64_t i = 0; i < squares.numel(); ++i) {
    const double norm = std::sqrt(squares.as<double>()[i]) / scale;
    Writer(factors).set(i, (limit == 0 ? 1.0 : std::min(1.0, limit / (norm + 1e-6))) / scale);
  }
}

void ReferenceBackend::adamw(Stream& stream, TensorView w, ConstTensorView gradient, TensorView m,
                             TensorView v, const AdamW& settings, ConstTensorView factor,
                             ConstTensorView apply, TensorView average) {
  check::adamw(w, gradient, m, v, factor, apply, average);
  if (Reader(apply)[0] == 0) return;
  const double b1 = static_cast<double>(settings.beta1);
  const double b2 = static_cast<double>(settings.beta2);
  const double rate = static_cast<double>(settings.learning_rate);
  const double decay = static_cast<double>(settings.weight_decay);
  const double correct1 = 1 - std::pow(b1, static_cast<double>(settings.step));
  const double correct2 = 1 - std::pow(b2, static_cast<double>(settings.step));
  for (int64_t i = 0; i < w.numel(); ++i) {
    const double g = Reader(gradient)[i] * Reader(factor)[0];
    const double first = b1 * Reader(m)[i] + (1 - b1) * g;
    const double second = b2 * Reader(v)[i] + (1 - b2) * g * g;
    const double step = first / correct1 / (std::sqrt(second / correct2) + static_cast<double>(settings.eps));
    Writer(w).set(i, Reader(w)[i] * (1 - rate * decay) - rate * step);
    Writer(m).set(i, first);
    Writer(v).set(i, second);
  }
  if (average) ema(stream, average, w, settings.momentum, apply);
}

void ReferenceBackend::ema(Stream&, TensorView average, ConstTensorView value, float momentum,
                           ConstTensorView apply) {
  check::same_f32({average, value});
  if (apply) check::scalar(apply, DType::f32);
  if (apply && Reader(apply)[0] == 0) return;
  const double keep = static_cast<double>(momentum);
  for (int64_t i = 0; i < average.numel(); ++i)
    Writer(average).set(i, keep * Reader(average)[i] + (1 - keep) * Reader(value)[i]);
}

}  // namespace dino::ops
