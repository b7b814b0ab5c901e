// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"

namespace dino::ops {
namespace {

constexpr int64_t kUpdateBlock = 1 << 14;

}  // namespace

void CpuBackend::clip_factors(Stream&, ConstTensorView squares, double scale, double limit,
                              TensorView factors) {
  check::clip_factors(squares, scale, limit, factors);
  const double* in = squares.as<double>();
  float* out = factors.as<float>();
  for (int64_t i = 0; i < squares.numel(); ++i) {
    const double factor = limit == 0 ? 1.0 : std::min(1.0, limit / (std::sqrt(in[i]) / scale + 1e-6));
    out[i] = static_cast<float>(factor / scale);
  }
}

void CpuBackend::adamw(Stream&, TensorView w, ConstTensorView gradient, TensorView m, TensorView v,
                       const AdamW& settings, ConstTensorView factor, ConstTensorView apply,
                       TensorView average) {
  check::adamw(w, gradient, m, v, factor, apply, average);
  if (*apply.as<float>() == 0) return;
  const auto step = static_cast<double>(settings.step);
  const auto rate = static_cast<double>(settings.learning_rate);
  const AdamWFactors factors{
      .decay = static_cast<float>(1 - rate * static_cast<double>(settings.weight_decay)),
      .beta1 = settings.beta1,
      .beta2 = settings.beta2,
      .eps = settings.eps,
      .gradient_scale = *factor.as<float>(),
      .step_size = static_cast<float>(rate / (1 - std::pow(static_cast<double>(settings.beta1), step))),
      .second_correction = static_cast<float>(1 / (1 - std::pow(static_cast<double>(settings.beta2), step))),
  };
  float* weights = w.as<float>();
  const float* gradients = gradient.as<float>();
  float* first = m.as<float>();
  float* second = v.as<float>();
  float* averages = average ? average.as<float>() : nullptr;
  for_blocks(w.numel(), kUpdateBlock, [&](int64_t i, int64_t n) {
    kernels().adamw(weights + i, gradients + i, first + i, second + i, factors, n);
    if (averages != nullptr) kernels().ema(averages + i, weights + i, settings.momentum, n);
  });
}

void CpuBackend::ema(Stream&, TensorView average, ConstTensorView value, float momentum,
                     ConstTensorView apply) {
  check::same_f32({average, value});
  if (apply) check::scalar(apply, DType::f32);
  if (apply && *apply.as<float>() == 0) return;
  float* to = average.as<float>();
  const float* from = value.as<float>();
  for_blocks(average.numel(), kUpdateBlock,
             [&](int64_t i, int64_t n) { kernels().ema(to + i, from + i, momentum, n); });
}

}  // namespace dino::ops
