// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/host.hpp"

namespace dino::ops {
namespace {

/// The norm of the rows that row(i) gives.
template <class Row>
void norm_rows(ConstTensorView gamma, ConstTensorView beta, float eps, TensorView y, TensorView mean,
               TensorView rstd, Row&& row) {
  check::layer_norm(gamma, beta, y, mean, rstd);
  const int64_t d = y.dim(1);
  const float* scale = gamma.as<float>();
  const float* shift = beta.as<float>();
  float* means = mean ? mean.as<float>() : nullptr;
  float* rstds = rstd ? rstd.as<float>() : nullptr;
  with_act(y.dtype, [&]<class T>(T) {
    T* out = y.as<T>();
    parallel_for(y.dim(0), d, [&](int64_t r) {
      act_kernels<T>().layer_norm(row(r), scale, shift, eps, out + r * d, means ? means + r : nullptr,
                                  rstds ? rstds + r : nullptr, d);
    });
  });
}

}  // namespace

void CpuBackend::layer_norm(Stream&, ConstTensorView x, ConstTensorView gamma, ConstTensorView beta,
                            float eps, TensorView y, TensorView mean, TensorView rstd) {
  const float* in = x.as<float>();
  const int64_t d = x.dim(1);
  check::same_f32({x});
  check::same_act({x, y});
  norm_rows(gamma, beta, eps, y, mean, rstd, [&](int64_t r) { return in + r * d; });
}

void CpuBackend::gather_layer_norm(Stream&, ConstTensorView x, ConstTensorView rows, ConstTensorView gamma,
                                   ConstTensorView beta, float eps, TensorView gathered, TensorView y,
                                   TensorView mean, TensorView rstd) {
  check::gathered(x, rows, gathered, y);
  const HostRows at(rows, x.dim(0));
  const int64_t d = x.dim(1);
  const float* in = x.as<float>();
  float* to = gathered ? gathered.as<float>() : nullptr;
  norm_rows(gamma, beta, eps, y, mean, rstd, [&](int64_t r) {
    const float* row = in + at[r] * d;
    if (to != nullptr) std::copy_n(row, d, to + r * d);
    return row;
  });
}

void CpuBackend::residual_layer_norm(Stream&, ConstTensorView x, ConstTensorView branch,
                                     ConstTensorView layer_scale, ConstTensorView gamma, ConstTensorView beta,
                                     float eps, TensorView sum, TensorView y, TensorView mean,
                                     TensorView rstd) {
  check::residual(x, branch, layer_scale, sum, y);
  const int64_t d = x.dim(1);
  const float* in = x.as<float>();
  const float* factors = layer_scale ? layer_scale.as<float>() : nullptr;
  float* to = sum.as<float>();
  with_act(branch.dtype, [&]<class T>(T) {
    const T* added = branch.as<T>();
    norm_rows(gamma, beta, eps, y, mean, rstd, [&](int64_t r) {
      if (to != in) std::copy_n(in + r * d, d, to + r * d);
      act_kernels<T>().add_scaled(to + r * d, added + r * d, factors, 1.0f, d);
      return to + r * d;
    });
  });
}

void CpuBackend::layer_norm_backward(Stream&, ConstTensorView dy, ConstTensorView x, ConstTensorView gamma,
                                     ConstTensorView mean, ConstTensorView rstd, ConstTensorView rows,
                                     TensorView dx, TensorView dgamma, TensorView dbeta) {
  check::layer_norm_backward(dy, x, gamma, mean, rstd, rows, dx, dgamma, dbeta);
  const HostRows at(rows, dx.dim(0));
  const int64_t d = x.dim(1);
  const float* in = x.as<float>();
  const float* scale = gamma.as<float>();
  const float* means = mean.as<float>();
  const float* rstds = rstd.as<float>();
  float* out = dx.as<float>();
  with_act(dy.dtype, [&]<class T>(T) {
    const T* gradient = dy.as<T>();
    chunked_column_sums(
        x.dim(0), d, {dgamma.as<float>(), dbeta.as<float>()}, [&](int64_t first, int64_t count, float* sums) {
          for (int64_t r = first; r < first + count; ++r)
            act_kernels<T>().layer_norm_backward(gradient + r * d, in + r * d, scale, means[r], rstds[r],
                                                 out + at[r] * d, sums, sums + d, d);
        });
  });
}

void CpuBackend::residual_layer_norm_backward(Stream&, ConstTensorView dy, ConstTensorView sum,
                                              ConstTensorView branch, ConstTensorView layer_scale,
                                              ConstTensorView gamma, ConstTensorView mean,
                                              ConstTensorView rstd, TensorView dx, TensorView dbranch,
                                              TensorView d_layer_scale, TensorView dgamma, TensorView dbeta) {
  check::layer_norm_backward(dy, sum, gamma, mean, rstd, {}, dx, dgamma, dbeta);
  check::residual(dx, branch, layer_scale, sum, dy);
  check::same_act({branch, dbranch});
  const int64_t d = sum.dim(1);
  check::vector(d_layer_scale, d, true);
  const float* in = sum.as<float>();
  const float* scale = gamma.as<float>();
  const float* means = mean.as<float>();
  const float* rstds = rstd.as<float>();
  const float* factors = layer_scale ? layer_scale.as<float>() : nullptr;
  float* out = dx.as<float>();
  float* total = d_layer_scale ? d_layer_scale.as<float>() : nullptr;
  with_act(dy.dtype, [&]<class T>(T) {
    const T* gradient = dy.as<T>();
    const T* added = branch.as<T>();
    T* to = dbranch.as<T>();
    chunked_column_sums(sum.dim(0), d, {dgamma.as<float>(), dbeta.as<float>(), total},
                        [&](int64_t first, int64_t count, float* sums) {
                          for (int64_t i = first; i < first + count; ++i) {
                            const int64_t at = i * d;
                            act_kernels<T>().layer_norm_backward(gradient + at, in + at, scale, means[i],
                                                                 rstds[i], out + at, sums, sums + d, d);
                            act_kernels<T>().add_scaled_backward(out + at, added + at, factors, 1.0f, to + at,
                                                                 total != nullptr ? sums + 2 * d : nullptr,
                                                                 d);
                          }
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
