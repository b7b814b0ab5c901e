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
  explicit Reader(ConstTensorView x) : data_(x.data), dtype_(x.dtype) {
    const bool is_act = dtype_ == DType::f32 || dtype_ == DType::bf16 || dtype_ == DType::f16;
    DINO_CHECK(x.device.is_host() && is_act, "an act tensor of the host");
  }
  double operator[](int64_t i) const {
    if (dtype_ == DType::bf16) return static_cast<double>(static_cast<float>(at<bf16>(i)));
    if (dtype_ == DType::f16) return static_cast<double>(static_cast<float>(at<f16>(i)));
    return static_cast<double>(at<float>(i));
  }

 private:
  template <class T>
  [[nodiscard]] T at(int64_t i) const {
    return static_cast<const T*>(data_)[i];
  }
  const void* data_;
  DType dtype_;
};

/// Writes any act tensor, rounding once.
class Writer {
 public:
  explicit Writer(TensorView x) : read_(x), data_(x.data), dtype_(x.dtype) {}
  void set(int64_t i, double value) const {
    if (dtype_ == DType::bf16)
      static_cast<bf16*>(data_)[i] = bf16(static_cast<float>(value));
    else if (dtype_ == DType::f16)
      static_cast<f16*>(data_)[i] = f16(static_cast<float>(value));
    else
      static_cast<float*>(data_)[i] = static_cast<float>(value);
  }
  void add(int64_t i, double value) const { set(i, read_[i] + value); }

 private:
  Reader read_;
  void* data_;
  DType dtype_;
};

double gelu(double x);
double gelu_derivative(double x);
double quick_gelu_derivative(double x);

}  // namespace dino::ops
