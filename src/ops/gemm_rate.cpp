// SPDX-License-Identifier: Apache-2.0
#include "ops/gemm_rate.hpp"

#include <algorithm>

#include "base/random.hpp"
#include "base/timing.hpp"

namespace dino::ops {

double gemm_rate(Backend& backend, Precision precision) {
  constexpr int64_t kM = 2048, kN = 1536, kK = 1536;
  const DType act = dtype_of(precision);
  const std::unique_ptr<Stream> stream = backend.new_stream();
  const auto drawn = [&](Shape shape, uint64_t index) {
    Tensor host(shape), there = Tensor::uninitialised(shape, DType::f32, backend.memory());
    Random random(0, RandomStream::synthetic, index);
    for (float& value : host.f32()) value = random.uniform() - 0.5F;
    copy(*stream, there, host);
    return there;
  };
  const Tensor x32 = drawn(Shape{kM, kK}, 1), w = drawn(Shape{kN, kK}, 2);
  Tensor x(Shape{kM, kK}, act, backend.memory()), y(Shape{kM, kN}, act, backend.memory());
  backend.convert(*stream, x32, x);
  double best = 0;
  for (int i = 0; i < 6; ++i) {
    stream->synchronize();
    const Stopwatch watch;
    backend.linear(*stream, x, w, {}, Activation::none, y, {});
    stream->synchronize();
    best = std::max(best, 2e-9 * static_cast<double>(kM * kN * kK) / watch.seconds());
  }
  return best;
}

}  // namespace dino::ops
