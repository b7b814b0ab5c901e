// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <numeric>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"

namespace dino::ops {
namespace {

constexpr int64_t kBlock = 1 << 14;

}  // namespace

void CpuBackend::cross_entropy(TensorView logits, ConstTensorView targets, float temperature,
                               ConstTensorView weight, TensorView loss) {
  check::same_f32({logits, targets});
  const int64_t k = logits.dim(1);
  check::vector(weight, logits.dim(0), true);
  check::vector(loss, logits.dim(0), false);
  float* s = logits.as<float>();
  const float* t = targets.as<float>();
  const float* weights = weight ? weight.as<float>() : nullptr;
  float* losses = loss.as<float>();
  const float inverse = 1.0f / temperature;
  parallel_for(logits.dim(0), k, [&](int64_t r) {
    const float factor = weights != nullptr ? weights[r] * inverse : 0.0f;
    losses[r] = kernels().cross_entropy(s + r * k, t + r * k, inverse, weights != nullptr, factor, k);
  });
}

void CpuBackend::exp_scaled(TensorView x, float shift, float temperature) {
  check::same_f32({x});
  float* data = x.as<float>();
  for_blocks(x.numel(), kBlock,
             [&](int64_t i, int64_t n) { kernels().exp_scaled(data + i, shift, 1.0f / temperature, n); });
}

void CpuBackend::weighted_column_sums(ConstTensorView x, ConstTensorView weight, TensorView out) {
  const int64_t k = x.dim(1);
  const int64_t rows = x.dim(0);
  check::same_f32({x});
  check::vector(weight, rows, true);
  check::vector(out, k, false);
  const float* in = x.as<float>();
  const float* weights = weight ? weight.as<float>() : nullptr;
  float* to = out.as<float>();
  constexpr int64_t kColumns = 1024;
  parallel_for((k + kColumns - 1) / kColumns, rows * kColumns, [&](int64_t block) {
    const int64_t c = block * kColumns;
    const int64_t n = std::min(kColumns, k - c);
    for (int64_t r = 0; r < rows; ++r)
      kernels().f32.add_scaled(to + c, in + r * k + c, nullptr, weights != nullptr ? weights[r] : 1.0f, n);
  });
}

void CpuBackend::matrix_vector(ConstTensorView x, ConstTensorView u, TensorView out) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(u, k, false);
  check::vector(out, x.dim(0), false);
  const float* in = x.as<float>();
  const float* v = u.as<float>();
  float* to = out.as<float>();
  parallel_for(x.dim(0), k, [&](int64_t r) { to[r] = kernels().dot(in + r * k, v, k); });
}

void CpuBackend::scale_rows_columns(TensorView x, ConstTensorView v, ConstTensorView u) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(v, x.dim(0), false);
  check::vector(u, k, false);
  float* data = x.as<float>();
  const float* rows = v.as<float>();
  const float* columns = u.as<float>();
  parallel_for(x.dim(0), k, [&](int64_t r) { kernels().scale_columns(data + r * k, rows[r], columns, k); });
}

void CpuBackend::softmax_centred(TensorView x, ConstTensorView centre, float temperature) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(centre, k, true);
  float* data = x.as<float>();
  const float* c = centre ? centre.as<float>() : nullptr;
  parallel_for(x.dim(0), k, [&](int64_t r) { kernels().softmax(data + r * k, c, 1.0f / temperature, k); });
}

void CpuBackend::adamw(std::span<float> w, std::span<const float> gradient, std::span<float> m,
                       std::span<float> v, const AdamW& settings) {
  DINO_CHECK(w.size() == gradient.size() && w.size() == m.size() && w.size() == v.size(), "sizes differ");
  const auto step = static_cast<double>(settings.step);
  const auto rate = static_cast<double>(settings.learning_rate);
  const AdamWFactors factors{
      .decay = static_cast<float>(1 - rate * static_cast<double>(settings.weight_decay)),
      .beta1 = settings.beta1,
      .beta2 = settings.beta2,
      .eps = settings.eps,
      .gradient_scale = settings.gradient_scale,
      .step_size = static_cast<float>(rate / (1 - std::pow(static_cast<double>(settings.beta1), step))),
      .second_correction = static_cast<float>(1 / (1 - std::pow(static_cast<double>(settings.beta2), step))),
  };
  for_blocks(static_cast<int64_t>(w.size()), kBlock, [&](int64_t i, int64_t n) {
    kernels().adamw(w.data() + i, gradient.data() + i, m.data() + i, v.data() + i, factors, n);
  });
}

void CpuBackend::ema(std::span<float> average, std::span<const float> value, float momentum) {
  DINO_CHECK(average.size() == value.size(), "sizes differ");
  for_blocks(static_cast<int64_t>(average.size()), kBlock,
             [&](int64_t i, int64_t n) { kernels().ema(average.data() + i, value.data() + i, momentum, n); });
}

double CpuBackend::sum_of_squares(std::span<const float> x) {
  const auto n = static_cast<int64_t>(x.size());
  const int64_t chunks = (n + kChunkElements - 1) / kChunkElements;
  thread_local Scratch scratch;
  auto* partials = static_cast<double*>(scratch.bytes(static_cast<size_t>(chunks) * sizeof(double)));
  for_blocks(n, kChunkElements, [&](int64_t i, int64_t count) {
    partials[i / kChunkElements] = kernels().squares(x.data() + i, count);
  });
  return std::accumulate(partials, partials + chunks, 0.0);
}

}  // namespace dino::ops
