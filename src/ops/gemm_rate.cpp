// SPDX-License-Identifier: Apache-2.0
#include "ops/gemm_rate.hpp"

#include <algorithm>

#include "base/random.hpp"
#include "base/timing.hpp"

namespace dino::ops {
namespace {

/// GFLOP/s that no CPU comes to, and rows that keep what does busy for a while.
constexpr double kFast = 3000;
constexpr int64_t kManyRows = 32768;

double timed_rate(Backend& backend, Precision precision, int64_t rows, int times) {
  constexpr int64_t kN = 1536, kK = 1536;
  const DType act = dtype_of(precision);
  const std::unique_ptr<Stream> stream = backend.new_stream();
  stream->allow_tf32_products(precision == Precision::tf32);
  const auto drawn = [&](Shape shape, uint64_t index) {
    Tensor host(shape), there = Tensor::uninitialised(shape, DType::f32, backend.memory());
    Random random(0, RandomStream::synthetic, index);
    for (float& value : host.f32()) value = random.uniform() - 0.5F;
    copy(*stream, there, host);
    return there;
  };
  const Tensor x32 = drawn(Shape{rows, kK}, 1), w = drawn(Shape{kN, kK}, 2);
  Tensor x(Shape{rows, kK}, act, backend.memory()), y(Shape{rows, kN}, act, backend.memory());
  backend.convert(*stream, x32, x);
  double best = 0;
  for (int i = 0; i < times; ++i) {
    stream->synchronize();
    const Stopwatch watch;
    backend.linear(*stream, x, w, {}, Activation::none, y, {});
    stream->synchronize();
    best = std::max(best, 2e-9 * static_cast<double>(rows * kN * kK) / watch.seconds());
  }
  return best;
}

}  // namespace

double gemm_rate(Backend& backend, Precision precision, int64_t rows, int times) {
  const double rate = timed_rate(backend, precision, rows, times);
  return rate < kFast ? rate : timed_rate(backend, precision, kManyRows, times);
}

}  // namespace dino::ops
