// SPDX-License-Identifier: Apache-2.0
#include "training/health.hpp"

#include <algorithm>
#include <cmath>

#include "numeric/symmetric_eigen.hpp"

namespace dino {
namespace {

double plogp(double p) {
  return p > 0 ? -p * std::log(p) : 0.0;
}

}  // namespace

void target_health(const Context& c, ConstTensorView targets, int64_t all_rows, TensorView entropy,
                   TensorView of_mean) {
  const Arena::Scope scope(c.arena);
  const TensorView sums = c.arena.zeros(c.stream, Shape{2 * targets.dim(1)});
  c.ops.target_statistics(c.stream, targets, sums, entropy);
  c.stream.wait(c.collective.all_reduce(c.stream, sums));
  c.ops.mean_target_statistics(c.stream, sums, static_cast<double>(all_rows), of_mean);
}

TensorView spaced_products(const Context& c, ConstTensorView unit) {
  const int64_t n = std::min(unit.dim(0), kRankRows);
  const TensorView products = c.arena.make(Shape{n, n});
  const Arena::Scope scope(c.arena);
  std::vector<int64_t> picked;
  for (int64_t i = 0; i < n; ++i) picked.push_back(i * unit.dim(0) / n);
  const TensorView rows = c.arena.make(Shape{n, unit.dim(1)});
  c.ops.gather_rows(c.stream, unit, c.arena.upload(c.stream, std::span<const int64_t>(picked)), rows);
  c.ops.linear(c.stream, rows, rows, {}, ops::Activation::none, products, {});
  return products;
}

double effective_rank(std::span<const float> products, int64_t n) {
  // Of rows that are zero, as a counted step has them: nothing to decompose.
  if (std::all_of(products.begin(), products.end(), [](float x) { return x == 0; })) return 1;
  const std::vector<double> eigenvalues =
      symmetric_eigen({products.begin(), products.end()}, n, false).values;
  // What f32 products cannot tell from 0 is 0.
  const double floor = eigenvalues.front() * static_cast<double>(n) * 1.2e-7;
  double sum = 0;
  for (const double value : eigenvalues) sum += value > floor ? std::sqrt(value) : 0.0;
  double entropy = 0;
  for (const double value : eigenvalues)
    if (value > floor) entropy += plogp(std::sqrt(value) / sum);
  return std::exp(entropy);
}

}  // namespace dino
