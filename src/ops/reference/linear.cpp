// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "ops/checks.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {
namespace {

/// A weight as the product sees it: rounded to the dtype of the activations.
double weight_at(const float* w, int64_t i, DType activations) {
  if (activations == DType::bf16) return static_cast<double>(static_cast<float>(bf16(w[i])));
  if (activations == DType::f16) return static_cast<double>(static_cast<float>(f16(w[i])));
  return static_cast<double>(w[i]);
}

}  // namespace

double gelu(double x) {
  return 0.5 * x * std::erfc(-x * M_SQRT1_2);
}

double gelu_derivative(double x) {
  const double density = std::exp(-0.5 * x * x) * M_SQRT1_2 * M_2_SQRTPI * 0.5;
  return 0.5 * std::erfc(-x * M_SQRT1_2) + x * density;
}

void ReferenceBackend::linear(Stream&, ConstTensorView x, ConstTensorView w, ConstTensorView b,
                              Activation activation, TensorView y, TensorView pre) {
  check::linear(x, w, b, y, pre);
  const int64_t n = y.dim(1);
  const int64_t k = x.dim(1);
  const Reader in(x);
  const float* weights = w.as<float>();
  for (int64_t row = 0; row < x.dim(0); ++row) {
    for (int64_t column = 0; column < n; ++column) {
      double sum = b ? static_cast<double>(b.as<float>()[column]) : 0.0;
      for (int64_t i = 0; i < k; ++i) sum += in[row * k + i] * weight_at(weights, column * k + i, x.dtype);
      if (pre) Writer(pre).set(row * n + column, sum);
      Writer(y).set(row * n + column, activation == Activation::gelu ? gelu(sum) : sum);
    }
  }
}

void ReferenceBackend::linear_backward_input(Stream&, ConstTensorView dy, ConstTensorView w, TensorView dx,
                                             bool accumulate) {
  check::linear_backward_input(dy, w, dx);
  const int64_t n = dy.dim(1);
  const int64_t k = dx.dim(1);
  const Reader gradient(dy);
  const Writer out(dx);
  const float* weights = w.as<float>();
  for (int64_t row = 0; row < dy.dim(0); ++row) {
    for (int64_t column = 0; column < k; ++column) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i)
        sum += gradient[row * n + i] * weight_at(weights, i * k + column, dy.dtype);
      if (accumulate)
        out.add(row * k + column, sum);
      else
        out.set(row * k + column, sum);
    }
  }
}

void ReferenceBackend::linear_backward_weight(Stream&, ConstTensorView dy, ConstTensorView x, TensorView dw,
                                              TensorView db) {
  check::linear_backward_weight(dy, x, dw, db);
  const int64_t m = dy.dim(0);
  const int64_t n = dy.dim(1);
  const int64_t k = x.dim(1);
  const Reader gradient(dy);
  const Reader in(x);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < k; ++column) {
      double sum = 0;
      for (int64_t i = 0; i < m; ++i) sum += gradient[i * n + row] * in[i * k + column];
      Writer(dw).add(row * k + column, sum);
    }
    if (!db) continue;
    double sum = 0;
    for (int64_t i = 0; i < m; ++i) sum += gradient[i * n + row];
    Writer(db).add(row, sum);
  }
}

}  // namespace dino::ops
