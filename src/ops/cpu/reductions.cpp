// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"

namespace dino::ops {
namespace {

/// of_chunk(first, count) for the chunks of a flat array, in their order whatever the number of threads.
template <class T, class Function>
std::span<const T> by_chunks(int64_t n, Function&& of_chunk) {
  thread_local Scratch scratch;
  const int64_t chunks = (n + kChunkElements - 1) / kChunkElements;
  auto* results = static_cast<T*>(scratch.bytes(static_cast<size_t>(chunks) * sizeof(T)));
  for_blocks(n, kChunkElements,
             [&](int64_t first, int64_t count) { results[first / kChunkElements] = of_chunk(first, count); });
  return {results, static_cast<size_t>(chunks)};
}

/// sum_i x[i] y[i]; y may be null (= 1).
double sum_of_products(const float* x, const float* y, int64_t n) {
  const std::span<const double> sums = by_chunks<double>(n, [&](int64_t i, int64_t count) {
    return kernels().products(x + i, y != nullptr ? y + i : nullptr, count);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

void CpuBackend::weighted_sum(Stream&, ConstTensorView x, ConstTensorView weight, double factor,
                              TensorView out) {
  check::same_f32({x});
  check::vector(weight, x.numel(), true);
  check::scalar(out, DType::f64);
  *out.as<double>() +=
      factor * sum_of_products(x.as<float>(), weight ? weight.as<float>() : nullptr, x.numel());
}

void CpuBackend::sum_of_squares(Stream&, ConstTensorView x, TensorView out) {
  check::same_f32({x});
  check::scalar(out, DType::f64);
  *out.as<double>() += sum_of_products(x.as<float>(), x.as<float>(), x.numel());
}

void CpuBackend::maximum(Stream&, ConstTensorView x, TensorView out) {
  check::same_f32({x});
  check::scalar(out, DType::f32);
  const float* in = x.as<float>();
  const std::span<const float> tops =
      by_chunks<float>(x.numel(), [&](int64_t i, int64_t count) { return kernels().largest(in + i, count); });
  float best = -std::numeric_limits<float>::infinity();
  for (const float top : tops) best = std::max(best, top);
  *out.as<float>() = best;
}

void CpuBackend::all_finite(Stream&, ConstTensorView x, TensorView flag) {
  DINO_CHECK(x.dtype == DType::f64, std::string("f64, not ") + name_of(x.dtype));
  check::scalar(flag, DType::f32);
  const double* in = x.as<double>();
  *flag.as<float>() =
      std::all_of(in, in + x.numel(), [](double value) { return std::isfinite(value); }) ? 1.0f : 0.0f;
}

}  // namespace dino::ops
