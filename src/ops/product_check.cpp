// SPDX-License-Identifier: Apache-2.0
#include "ops/product_check.hpp"

#include <fmt/format.h>

#include "base/random.hpp"
#include "ops/precision.hpp"

namespace dino::ops {
namespace {

/// Sums of kK numbers of -1, 0 and 1 fit into the 8 bits of bf16. Rows and columns fill no tile evenly.
constexpr int64_t kM = 300, kN = 200, kK = 128;

Tensor drawn(Shape shape, uint64_t index) {
  Tensor values(shape);
  Random random(0, RandomStream::synthetic, index);
  for (float& value : values.f32()) value = static_cast<float>(random.below(3)) - 1;
  return values;
}

float expected(const Tensor& x, const Tensor& w, int64_t row, int64_t column) {
  float sum = 0;
  for (int64_t k = 0; k < kK; ++k) sum += x.as<float>()[row * kK + k] * w.as<float>()[column * kK + k];
  return sum;
}

}  // namespace

std::string fault_of_products(Backend& backend) {
  const std::unique_ptr<Stream> stream = backend.new_stream();
  const Tensor x = drawn(Shape{kM, kK}, 31), w = drawn(Shape{kN, kK}, 32);
  const auto there = [&](const Tensor& host) {
    Tensor device = Tensor::uninitialised(host.shape(), DType::f32, backend.memory());
    copy(*stream, device, host);
    return device;
  };
  const Tensor x32 = there(x), w32 = there(w);
  for (const Precision precision : {Precision::f32, Precision::tf32, Precision::bf16, Precision::f16}) {
    const DType act = dtype_of(precision);
    stream->allow_tf32_products(precision == Precision::tf32);
    Tensor xa(x.shape(), act, backend.memory()), y(Shape{kM, kN}, act, backend.memory()),
        y32(Shape{kM, kN}, DType::f32, backend.memory()), got(Shape{kM, kN});
    backend.convert(*stream, x32, xa);
    backend.linear(*stream, xa, w32, {}, Activation::none, y, {});
    backend.convert(*stream, y, y32);
    copy(*stream, got, y32);
    stream->synchronize();
    for (int64_t row = 0; row < kM; ++row) {
      for (int64_t column = 0; column < kN; ++column) {
        const float value = got.as<float>()[row * kN + column], truth = expected(x, w, row, column);
        if (value != truth)
          return fmt::format("a product in {} is wrong: {} instead of {} in row {}, column {}",
                             name_of(precision), value, truth, row, column);
      }
    }
  }
  return "";
}

}  // namespace dino::ops
