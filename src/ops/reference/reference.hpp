// SPDX-License-Identifier: Apache-2.0
#pragma once
// The naive backend: what each operator means, in plain loops with sums in f64.

#include "ops/overrides.hpp"

namespace dino::ops {

class ReferenceBackend final : public Backend {
 public:
  [[nodiscard]] const char* name() const override { return "reference"; }
  [[nodiscard]] Memory& memory() override { return Memory::host(); }
  [[nodiscard]] std::unique_ptr<Stream> new_stream() override { return std::make_unique<HostStream>(); }
  DINO_OPS_OVERRIDES;
};

/// Reads any act tensor as f64.
class Reader {
 public:
  explicit Reader(ConstTensorView x) : data_(x.data), is_bf16_(x.dtype == DType::bf16) {
    DINO_CHECK(x.device.is_host() && (is_bf16_ || x.dtype == DType::f32), "an act tensor of the host");
  }
  double operator[](int64_t i) const {
    return is_bf16_ ? static_cast<double>(static_cast<float>(static_cast<const bf16*>(data_)[i]))
                    : static_cast<double>(static_cast<const float*>(data_)[i]);
  }

 private:
  const void* data_;
  bool is_bf16_;
};

/// Writes any act tensor, rounding once.
class Writer {
 public:
  explicit Writer(TensorView x) : read_(x), data_(x.data), is_bf16_(x.dtype == DType::bf16) {}
  void set(int64_t i, double value) const {
    if (is_bf16_)
      static_cast<bf16*>(data_)[i] = bf16(static_cast<float>(value));
    else
      static_cast<float*>(data_)[i] = static_cast<float>(value);
  }
  void add(int64_t i, double value) const { set(i, read_[i] + value); }

 private:
  Reader read_;
  void* data_;
  bool is_bf16_;
};

double gelu(double x);
double gelu_derivative(double x);

}  // namespace dino::ops
