// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"

namespace dino::ops {

void CpuBackend::layer_norm(Stream&, ConstTensorView x, ConstTensorView gamma, ConstTensorView beta,
                            float eps, TensorView y, TensorView mean, TensorView rstd) {
  check::same_act({x, y});
  const int64_t d = x.dim(1);
  check::vector(gamma, d, false);
  check::vector(beta, d, false);
  check::vector(mean, x.dim(0), true);
  check::vector(rstd, x.dim(0), true);
  const float* in = x.as<float>();
  const float* scale = gamma.as<float>();
  const float* shift = beta.as<float>();
  float* means = mean ? mean.as<float>() : nullptr;
  float* rstds = rstd ? rstd.as<float>() : nullptr;
  with_act(y.dtype, [&]<class T>(T) {
    T* out = y.as<T>();
    parallel_for(x.dim(0), d, [&](int64_t r) {
      act_kernels<T>().layer_norm(in + r * d, scale, shift, eps, out + r * d, means ? means + r : nullptr,
                                  rstds ? rstds + r : nullptr, d);
    });
  });
}

void CpuBackend::layer_norm_backward(Stream&, ConstTensorView dy, ConstTensorView x, ConstTensorView gamma,
                                     ConstTensorView mean, ConstTensorView rstd, TensorView dx,
                                     TensorView dgamma, TensorView dbeta) {
  check::same_act({x, dy});
  check::same_f32({x, dx});
  const int64_t d = x.dim(1);
  for (const ConstTensorView& v : {gamma, ConstTensorView(dgamma), ConstTensorView(dbeta)})
    check::vector(v, d, false);
  check::vector(mean, x.dim(0), false);
  check::vector(rstd, x.dim(0), false);
  const float* in = x.as<float>();
  const float* scale = gamma.as<float>();
  const float* means = mean.as<float>();
  const float* rstds = rstd.as<float>();
  float* out = dx.as<float>();
  with_act(dy.dtype, [&]<class T>(T) {
    const T* gradient = dy.as<T>();
    chunked_column_sums(
        x.dim(0), d, {dgamma.as<float>(), dbeta.as<float>()}, [&](int64_t first, int64_t rows, float* sums) {
          for (int64_t r = first; r < first + rows; ++r)
            act_kernels<T>().layer_norm_backward(gradient + r * d, in + r * d, scale, means[r], rstds[r],
                                                 out + r * d, sums, sums + d, d);
        });
  });
}

void CpuBackend::l2_normalize(Stream&, ConstTensorView x, float eps, TensorView y, TensorView norm) {
  check::same_f32({x, y});
  check::vector(norm, x.dim(0), false);
  const int64_t d = x.dim(1);
  const float* in = x.as<float>();
  float* out = y.as<float>();
  float* norms = norm.as<float>();
  parallel_for(x.dim(0), d, [&](int64_t r) {
    const float* row = in + r * d;
    norms[r] = std::max(std::sqrt(kernels().dot(row, row, d)), eps);
    kernels().scaled(row, 1.0f / norms[r], out + r * d, d);
  });
}

void CpuBackend::l2_normalize_backward(Stream&, ConstTensorView dy, ConstTensorView y, ConstTensorView norm,
                                       float eps, TensorView dx) {
  check::same_f32({dy, y, dx});
  check::vector(norm, dy.dim(0), false);
  const int64_t d = dy.dim(1);
  const float* gradient = dy.as<float>();
  const float* unit = y.as<float>();
  const float* norms = norm.as<float>();
  float* out = dx.as<float>();
  parallel_for(dy.dim(0), d, [&](int64_t r) {
    const bool clamped = norms[r] <= eps;
    const float along = clamped ? 0.0f : kernels().dot(gradient + r * d, unit + r * d, d);
    kernels().subtract_scaled(gradient + r * d, unit + r * d, along, 1.0f / norms[r], out + r * d, d);
  });
}

void CpuBackend::weight_norm(Stream&, ConstTensorView g, ConstTensorView v, TensorView w) {
  check::weight_norm(g, v, w);
  const int64_t d = v.dim(1);
  const float* gains = g.as<float>();
  const float* in = v.as<float>();
  with_act(w.dtype, [&]<class T>(T) {
    T* out = w.as<T>();
    parallel_for(v.dim(0), d, [&](int64_t k) {
      const float* row = in + k * d;
      const double norm = std::sqrt(kernels().products(row, row, d));
      const double scale = static_cast<double>(gains[k]) / norm;
      if constexpr (std::is_same_v<T, float>) {
        kernels().scaled_wide(row, scale, out + k * d, d);
      } else {
        thread_local Scratch wide;
        kernels().scaled_wide(row, scale, wide.floats(d), d);
        act_kernels<T>().from_float(wide.floats(d), out + k * d, d);
      }
    });
  });
}

void CpuBackend::weight_norm_backward(Stream&, ConstTensorView g, ConstTensorView v, ConstTensorView dw,
                                      TensorView dg, TensorView dv) {
  check::weight_norm_backward(g, v, dw, dg, dv);
  const int64_t d = v.dim(1);
  const float* gains = g.as<float>();
  const float* in = v.as<float>();
  const float* gradient = dw.as<float>();
  float* gain_gradient = dg.as<float>();
  float* out = dv.as<float>();
  parallel_for(v.dim(0), d, [&](int64_t k) {
    const float* row = in + k * d;
    const double norm = std::sqrt(kernels().products(row, row, d));
    const double along = kernels().products(gradient + k * d, row, d) / norm;
    gain_gradient[k] += static_cast<float>(along);
    const double scale = static_cast<double>(gains[k]) / norm;
    kernels().add_combined(scale, gradient + k * d, -scale * along / norm, row, out + k * d, d);
  });
}

}  // namespace dino::ops
