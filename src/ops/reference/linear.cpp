// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "ops/checks.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {
namespace {

/// Weights as the product sees them: rounded to the dtype of the activations.
class Weights {
 public:
  Weights(ConstTensorView w, DType activations) : values_(w), dtype_(activations) {}
  double operator[](int64_t i) const {
    const auto value = static_cast<float>(values_[i]);
    if (dtype_ == DType::bf16) return static_cast<double>(static_cast<float>(bf16(value)));
    if (dtype_ == DType::f16) return static_cast<double>(static_cast<float>(f16(value)));
    return static_cast<double>(value);
  }

 private:
  Reader values_;
  DType dtype_;
};

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::gelu:
      return gelu(x);
    case Activation::quick_gelu:
      return x * sigmoid(1.702 * x);
    case Activation::none:
      break;
  }
  return x;
}

}  // namespace

double gelu(double x) {
  return 0.5 * x * std::erfc(-x * M_SQRT1_2);
}

double quick_gelu_derivative(double x) {
  const double s = sigmoid(1.702 * x);
  return s + x * 1.702 * s * (1 - s);
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
  const Weights weights(w, x.dtype);
  for (int64_t row = 0; row < x.dim(0); ++row) {
    for (int64_t column = 0; column < n; ++column) {
      double sum = b ? static_cast<double>(b.as<float>()[column]) : 0.0;
      for (int64_t i = 0; i < k; ++i) sum += in[row * k + i] * weights[column * k + i];
      if (pre) Writer(pre).set(row * n + column, sum);
      Writer(y).set(row * n + column, activated(activation, sum));
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
  const Weights weights(w, dy.dtype);
  for (int64_t row = 0; row < dy.dim(0); ++row) {
    for (int64_t column = 0; column < k; ++column) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += gradient[row * n + i] * weights[i * k + column];
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
