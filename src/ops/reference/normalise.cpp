// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/host.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {

void ReferenceBackend::layer_norm(Stream&, ConstTensorView x, ConstTensorView gamma, ConstTensorView beta,
                                  float eps, TensorView y, TensorView mean, TensorView rstd) {
  check::same_f32({x});
  check::same_act({x, y});
  check::layer_norm(gamma, beta, y, mean, rstd);
  const int64_t m = x.dim(0);
  const int64_t d = x.dim(1);
  const Reader in(x);
  for (int64_t r = 0; r < m; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < d; ++c) sum += in[r * d + c];
    const double centre = sum / static_cast<double>(d);
    double squares = 0;
    for (int64_t c = 0; c < d; ++c) squares += (in[r * d + c] - centre) * (in[r * d + c] - centre);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(d) + static_cast<double>(eps));
    for (int64_t c = 0; c < d; ++c)
      Writer(y).set(r * d + c, (in[r * d + c] - centre) * scale * Reader(gamma)[c] + Reader(beta)[c]);
    if (mean) Writer(mean).set(r, centre);
    if (rstd) Writer(rstd).set(r, scale);
  }
}

void ReferenceBackend::layer_norm_backward(Stream&, ConstTensorView dy, ConstTensorView x,
                                           ConstTensorView gamma, ConstTensorView mean, ConstTensorView rstd,
                                           ConstTensorView rows, TensorView dx, TensorView dgamma,
                                           TensorView dbeta) {
  check::layer_norm_backward(dy, x, gamma, mean, rstd, rows, dx, dgamma, dbeta);
  const HostRows at(rows, dx.dim(0));
  const int64_t m = x.dim(0);
  const int64_t d = x.dim(1);
  const Reader in(x);
  const Reader gradient(dy);
  std::vector<double> gamma_sum(static_cast<size_t>(d));
  std::vector<double> beta_sum(static_cast<size_t>(d));
  for (int64_t r = 0; r < m; ++r) {
    const double centre = Reader(mean)[r];
    const double scale = Reader(rstd)[r];
    double sum = 0;    // sum of g = dy gamma
    double along = 0;  // sum of g xhat
    for (int64_t c = 0; c < d; ++c) {
      const double xhat = (in[r * d + c] - centre) * scale;
      const double g = gradient[r * d + c] * Reader(gamma)[c];
      sum += g;
      along += g * xhat;
      gamma_sum[static_cast<size_t>(c)] += gradient[r * d + c] * xhat;
      beta_sum[static_cast<size_t>(c)] += gradient[r * d + c];
    }
    for (int64_t c = 0; c < d; ++c) {
      const double xhat = (in[r * d + c] - centre) * scale;
      const double g = gradient[r * d + c] * Reader(gamma)[c];
      Writer(dx).add(at[r] * d + c, scale * (g - (sum + xhat * along) / static_cast<double>(d)));
    }
  }
  for (int64_t c = 0; c < d; ++c) {
    Writer(dgamma).add(c, gamma_sum[static_cast<size_t>(c)]);
    Writer(dbeta).add(c, beta_sum[static_cast<size_t>(c)]);
  }
}

void ReferenceBackend::gather_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView rows,
                                         ConstTensorView gamma, ConstTensorView beta, float eps,
                                         TensorView gathered, TensorView y, TensorView mean,
                                         TensorView rstd) {
  check::gathered(x, rows, gathered, y);
  Tensor mine(Shape{rows.numel(), x.dim(1)});
  if (!gathered) gathered = mine.view();
  gather_rows(stream, x, rows, gathered);
  layer_norm(stream, gathered, gamma, beta, eps, y, mean, rstd);
}

void ReferenceBackend::residual_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView branch,
                                           ConstTensorView layer_scale, ConstTensorView gamma,
                                           ConstTensorView beta, float eps, TensorView sum, TensorView y,
                                           TensorView mean, TensorView rstd) {
  check::residual(x, branch, layer_scale, sum, y);
  convert(stream, x, sum);
  scaled_index_add(stream, sum, branch, layer_scale, 1, {});
  layer_norm(stream, sum, gamma, beta, eps, y, mean, rstd);
}

void ReferenceBackend::residual_layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView sum,
                                                    ConstTensorView branch, ConstTensorView layer_scale,
                                                    ConstTensorView gamma, ConstTensorView mean,
                                                    ConstTensorView rstd, TensorView dx, TensorView dbranch,
                                                    TensorView d_layer_scale, TensorView dgamma,
                                                    TensorView dbeta) {
  check::residual(dx, branch, layer_scale, sum, dy);
  layer_norm_backward(stream, dy, sum, gamma, mean, rstd, {}, dx, dgamma, dbeta);
  scaled_index_add_backward(stream, dx, branch, layer_scale, 1, {}, dbranch, d_layer_scale);
}

void ReferenceBackend::l2_normalize(Stream&, ConstTensorView x, float eps, TensorView y, TensorView norm) {
  check::same_f32({x, y});
  const int64_t d = x.dim(1);
  check::vector(norm, x.dim(0), false);
  for (int64_t r = 0; r < x.dim(0); ++r) {
    double squares = 0;
    for (int64_t c = 0; c < d; ++c) squares += Reader(x)[r * d + c] * Reader(x)[r * d + c];
    const double length = std::max(std::sqrt(squares), static_cast<double>(eps));
    for (int64_t c = 0; c < d; ++c) Writer(y).set(r * d + c, Reader(x)[r * d + c] / length);
    Writer(norm).set(r, length);
  }
}

void ReferenceBackend::l2_normalize_backward(Stream&, ConstTensorView dy, ConstTensorView y,
                                             ConstTensorView norm, float eps, TensorView dx) {
  check::same_f32({dy, y, dx});
  const int64_t d = dy.dim(1);
  check::vector(norm, dy.dim(0), false);
  for (int64_t r = 0; r < dy.dim(0); ++r) {
    const double length = Reader(norm)[r];
    double along = 0;
    for (int64_t c = 0; c < d; ++c) along += Reader(dy)[r * d + c] * Reader(y)[r * d + c];
    if (norm.as<float>()[r] <= eps) along = 0;  // the clamp is a constant: it passes no gradient to the norm
    for (int64_t c = 0; c < d; ++c)
      Writer(dx).set(r * d + c, (Reader(dy)[r * d + c] - Reader(y)[r * d + c] * along) / length);
  }
}

void ReferenceBackend::weight_norm(Stream&, ConstTensorView g, ConstTensorView v, TensorView w) {
  check::weight_norm(g, v, w);
  const int64_t d = v.dim(1);
  for (int64_t k = 0; k < v.dim(0); ++k) {
    double squares = 0;
    for (int64_t c = 0; c < d; ++c) squares += Reader(v)[k * d + c] * Reader(v)[k * d + c];
    for (int64_t c = 0; c < d; ++c)
      Writer(w).set(k * d + c, Reader(g)[k] * Reader(v)[k * d + c] / std::sqrt(squares));
  }
}

void ReferenceBackend::weight_norm_backward(Stream&, ConstTensorView g, ConstTensorView v, ConstTensorView dw,
                                            TensorView dg, TensorView dv) {
  check::weight_norm_backward(g, v, dw, dg, dv);
  const int64_t d = v.dim(1);
  for (int64_t k = 0; k < v.dim(0); ++k) {
    double squares = 0, along = 0;
    for (int64_t c = 0; c < d; ++c) {
      squares += Reader(v)[k * d + c] * Reader(v)[k * d + c];
      along += Reader(dw)[k * d + c] * Reader(v)[k * d + c];
    }
    const double norm = std::sqrt(squares);
    along /= norm;
    Writer(dg).add(k, along);
    for (int64_t c = 0; c < d; ++c)
      Writer(dv).add(k * d + c,
                     Reader(g)[k] / norm * (Reader(dw)[k * d + c] - along * Reader(v)[k * d + c] / norm));
  }
}

}  // namespace dino::ops
