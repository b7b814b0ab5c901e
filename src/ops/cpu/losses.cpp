// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"

namespace dino::ops {
void CpuBackend::cross_entropy(Stream&, TensorView logits, ConstTensorView targets, float temperature,
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

void CpuBackend::exp_rows(Stream&, TensorView x, float temperature, TensorView maxima) {
  check::matrix(x);
  check::vector(maxima, x.dim(0), false);
  const int64_t k = x.dim(1);
  float* data = x.as<float>();
  float* tops = maxima.as<float>();
  parallel_for(x.dim(0), k,
               [&](int64_t r) { tops[r] = kernels().exp_row(data + r * k, 1.0f / temperature, k); });
}

void CpuBackend::exp_relative(Stream&, TensorView x, ConstTensorView reference, float temperature) {
  check::same_f32({x});
  check::scalar(reference, DType::f32);
  float* data = x.as<float>();
  const auto shift = static_cast<double>(reference.as<float>()[0]);
  const auto scale = static_cast<double>(temperature);
  parallel_for(x.numel(), 16, [&](int64_t i) {
    data[i] = static_cast<float>(std::exp((static_cast<double>(data[i]) - shift) / scale));
  });
}

void CpuBackend::weighted_column_sums(Stream&, ConstTensorView x, ConstTensorView weight, TensorView out) {
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

void CpuBackend::matrix_vector(Stream&, ConstTensorView x, ConstTensorView u, TensorView out) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(u, k, false);
  check::vector(out, x.dim(0), false);
  const float* in = x.as<float>();
  const float* v = u.as<float>();
  float* to = out.as<float>();
  parallel_for(x.dim(0), k, [&](int64_t r) { to[r] = kernels().dot(in + r * k, v, k); });
}

void CpuBackend::scale_rows_columns(Stream&, TensorView x, ConstTensorView v, ConstTensorView u) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(v, x.dim(0), false);
  check::vector(u, k, false);
  float* data = x.as<float>();
  const float* rows = v.as<float>();
  const float* columns = u.as<float>();
  parallel_for(x.dim(0), k, [&](int64_t r) { kernels().scale_columns(data + r * k, rows[r], columns, k); });
}

void CpuBackend::softmax_centred(Stream&, TensorView x, ConstTensorView centre, float temperature) {
  const int64_t k = x.dim(1);
  check::same_f32({x});
  check::vector(centre, k, true);
  float* data = x.as<float>();
  const float* c = centre ? centre.as<float>() : nullptr;
  parallel_for(x.dim(0), k, [&](int64_t r) { kernels().softmax(data + r * k, c, 1.0f / temperature, k); });
}

}  // namespace dino::ops
