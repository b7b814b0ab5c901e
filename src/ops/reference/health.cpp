// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {
namespace {

double entropy_term(double p) {
  return p > 0 ? -p * std::log(p) : 0.0;
}

}  // namespace

void ReferenceBackend::target_statistics(Stream&, ConstTensorView targets, TensorView sums,
                                         TensorView entropy) {
  check::target_statistics(targets, sums, entropy);
  const int64_t rows = targets.dim(0), k = targets.dim(1);
  std::vector<double> columns(static_cast<size_t>(k));
  for (int64_t r = 0; r < rows; ++r) {
    int64_t best = -1;
    for (int64_t c = 0; c < k; ++c) {
      const double t = Reader(targets)[r * k + c];
      columns[static_cast<size_t>(c)] += t;
      *entropy.as<double>() += entropy_term(t);
      if (!std::isnan(t) && (best < 0 || t > Reader(targets)[r * k + best])) best = c;
    }
    if (k > 0) Writer(sums).add(k + std::max<int64_t>(best, 0), 1);
  }
  for (int64_t c = 0; c < k; ++c) Writer(sums).add(c, columns[static_cast<size_t>(c)]);
}

void ReferenceBackend::mean_target_statistics(Stream&, ConstTensorView sums, double rows, TensorView out) {
  check::mean_target_statistics(sums, out);
  const int64_t k = sums.numel() / 2;
  double entropy = 0, used = 0;
  for (int64_t c = 0; c < k; ++c) {
    entropy += entropy_term(Reader(sums)[c] / rows);
    used += Reader(sums)[k + c] > 0 ? 1 : 0;
  }
  out.as<double>()[0] = entropy;
  out.as<double>()[1] = used / static_cast<double>(k);
}

void ReferenceBackend::mean_column_std(Stream&, ConstTensorView x, TensorView out) {
  check::matrix(x);
  check::scalar(out, DType::f64);
  const int64_t rows = x.dim(0), d = x.dim(1);
  double total = 0;
  for (int64_t c = 0; c < d; ++c) {
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < rows; ++r) sum += Reader(x)[r * d + c];
    const double mean = sum / static_cast<double>(rows);
    for (int64_t r = 0; r < rows; ++r) squares += std::pow(Reader(x)[r * d + c] - mean, 2);
    total += std::sqrt(squares / static_cast<double>(rows));
  }
  *out.as<double>() = total / static_cast<double>(d);
}

}  // namespace dino::ops
