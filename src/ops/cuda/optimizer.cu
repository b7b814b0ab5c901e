// SPDX-License-Identifier: Apache-2.0
// Updates of flat f32 state: each array goes by once.

#include <cmath>

#include "ops/checks.hpp"
#include "ops/cuda/cuda_backend.hpp"
#include "ops/cuda/elements.hpp"

namespace dino::cuda {
namespace {

__global__ void clip_factors_kernel(const double* squares, double scale, double limit, float* factors,
                                    int64_t n) {
  const int64_t i = global_thread();
  if (i >= n) return;
  const double norm = sqrt(squares[i]) / scale;
  factors[i] = static_cast<float>((limit == 0 ? 1.0 : fmin(1.0, limit / (norm + 1e-6))) / scale);
}

__device__ __forceinline__ float averaged(float average, float value, float momentum) {
  return fmaf(momentum, average, (1.0f - momentum) * value);
}

/// w <- decay w - step_size m / (sqrt(v second_correction) + eps); average, which may be null, follows.
template <int N>
__global__ void adamw_kernel(float* w, const float* gradient, float* m, float* v, float* average, float beta1,
                             float beta2, float eps, float decay, float step_size, float second_correction,
                             float momentum, const float* factor, const float* apply, int64_t n) {
  if (*apply == 0.0f) return;
  const float gradient_scale = *factor;
  for_group<N>(n, [&](auto width, int64_t i) {
    constexpr int kN = decltype(width)::value;
    float weights[kN], gradients[kN], first[kN], second[kN];
    load(w + i, weights);
    load(gradient + i, gradients);
    load(m + i, first);
    load(v + i, second);
    for (int j = 0; j < kN; ++j) {
      const float g = gradients[j] * gradient_scale;
      first[j] = fmaf(first[j], beta1, g * (1.0f - beta1));
      second[j] = fmaf(second[j], beta2, g * g * (1.0f - beta2));
      const float root = sqrtf(second[j] * second_correction);
      weights[j] = weights[j] * decay - step_size * first[j] / (root + eps);
    }
    store(w + i, weights);
    store(m + i, first);
    store(v + i, second);
    if (average == nullptr) return;
    float averages[kN];
    load(average + i, averages);
    for (int j = 0; j < kN; ++j) averages[j] = averaged(averages[j], weights[j], momentum);
    store(average + i, averages);
  });
}

template <int N>
__global__ void ema_kernel(float* average, const float* value, float momentum, const float* apply,
                           int64_t n) {
  if (apply != nullptr && *apply == 0.0f) return;
  for_group<N>(n, [&](auto width, int64_t i) {
    constexpr int kN = decltype(width)::value;
    float averages[kN], values[kN];
    load(average + i, averages);
    load(value + i, values);
    for (int j = 0; j < kN; ++j) averages[j] = averaged(averages[j], values[j], momentum);
    store(average + i, averages);
  });
}

}  // namespace
}  // namespace dino::cuda

namespace dino::ops {

using namespace cuda;

void CudaBackend::clip_factors(Stream& stream, ConstTensorView squares, double scale, double limit,
                               TensorView factors) {
  check::clip_factors(squares, scale, limit, factors);
  const int64_t n = squares.numel();
  launch("clip_factors", clip_factors_kernel, {{blocks_for(n, kBlock)}, {kBlock}}, stream,
         pointer<double>(squares), scale, limit, pointer<float>(factors), n);
}

void CudaBackend::adamw(Stream& stream, TensorView w, ConstTensorView gradient, TensorView m, TensorView v,
                        const AdamW& settings, ConstTensorView factor, ConstTensorView apply,
                        TensorView average) {
  check::adamw(w, gradient, m, v, factor, apply, average);
  const auto step = static_cast<double>(settings.step);
  const auto rate = static_cast<double>(settings.learning_rate);
  const double decay = 1 - rate * static_cast<double>(settings.weight_decay);
  const double step_size = rate / (1 - std::pow(static_cast<double>(settings.beta1), step));
  const double second_correction = 1 / (1 - std::pow(static_cast<double>(settings.beta2), step));
  with_width<4>(aligned({w.data, gradient.data, m.data, v.data, average.data}), [&]<int N>(Width<N>) {
    launch("adamw", adamw_kernel<N>, group_shape<N>(w.numel()), stream, pointer<float>(w),
           pointer<float>(gradient), pointer<float>(m), pointer<float>(v), pointer<float>(average),
           settings.beta1, settings.beta2, settings.eps, decay, step_size, second_correction,
           settings.momentum, pointer<float>(factor), pointer<float>(apply), w.numel());
  });
}

void CudaBackend::ema(Stream& stream, TensorView average, ConstTensorView value, float momentum,
                      ConstTensorView apply) {
  check::same_f32({average, value});
  if (apply) check::scalar(apply, DType::f32);
  with_width<4>(aligned({average.data, value.data}), [&]<int N>(Width<N>) {
    launch("ema", ema_kernel<N>, group_shape<N>(average.numel()), stream, pointer<float>(average),
           pointer<float>(value), momentum, pointer<float>(apply), average.numel());
  });
}

}  // namespace dino::ops
