// SPDX-License-Identifier: Apache-2.0
#pragma once
// One test body per operator runs on every backend: the reference, and the CPU backend at each instruction
// set of this machine, with f32 and bf16 activations. Expectations are fp64 arithmetic written in the test;
// gradients are central differences of that arithmetic.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "base/cpu.hpp"
#include "base/random.hpp"
#include "ops/ops.hpp"

namespace dino::ops::testing {

using Values = std::vector<double>;

struct Variant {
  bool reference;
  CpuLevel level;
  DType act;
};

inline void PrintTo(const Variant& variant, std::ostream* out) {
  *out << (variant.reference ? "reference" : cpu_level_name(variant.level)) << ' ' << name_of(variant.act);
}

/// The highest level comes first: oneDNN fixes its instruction set at its first product.
inline std::vector<Variant> variants(bool both_dtypes = true) {
  std::vector<Variant> all;
  for (const DType act : {DType::f32, DType::bf16}) {
    if (act == DType::bf16 && !both_dtypes) continue;
    all.push_back({true, cpu_level(), act});
    const std::vector<CpuLevel> levels = available_cpu_levels();
    for (size_t i = levels.size(); i-- > 0;) all.push_back({false, levels[i], act});
  }
  return all;
}

inline std::string variant_name(const ::testing::TestParamInfo<Variant>& info) {
  return std::string(info.param.reference ? "reference" : cpu_level_name(info.param.level)) + "_" +
         name_of(info.param.act);
}

class OperatorTest : public ::testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    level_before_ = cpu_level();
    set_cpu_level(GetParam().level);
  }
  void TearDown() override { set_cpu_level(level_before_); }
  [[nodiscard]] Backend& ops() const { return GetParam().reference ? reference_backend() : backend(); }
  [[nodiscard]] DType act() const { return GetParam().act; }
  /// Relative to the largest expected value: f32 sums, or one rounding to bf16 (2^-9) of inputs and output.
  [[nodiscard]] double tolerance() const { return act() == DType::bf16 ? 8e-3 : 4e-6; }

 private:
  CpuLevel level_before_ = CpuLevel::baseline;
};

/// Standard normal numbers times `scale`, rounded to the dtype.
inline Tensor random_tensor(Shape shape, DType dtype, uint64_t seed, double scale = 1) {
  Tensor tensor(shape, dtype);
  Random random(seed, RandomStream::test, 0);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    const auto value = static_cast<float>(random.normal() * scale);
    if (dtype == DType::bf16)
      tensor.as<bf16>()[i] = bf16(value);
    else
      tensor.as<float>()[i] = value;
  }
  return tensor;
}

inline Values values_of(ConstTensorView tensor) {
  Values values(static_cast<size_t>(tensor.numel()));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = tensor.dtype == DType::bf16 ? static_cast<double>(static_cast<float>(tensor.as<bf16>()[i]))
                                            : static_cast<double>(tensor.as<float>()[i]);
  return values;
}

/// As the products see a weight: rounded to the activations' dtype.
inline Values rounded(Values values, DType dtype) {
  if (dtype == DType::bf16)
    for (double& v : values) v = static_cast<double>(static_cast<float>(bf16(static_cast<float>(v))));
  return values;
}

inline double largest_magnitude(const Values& values) {
  double largest = 0;
  for (const double v : values) largest = std::max(largest, std::abs(v));
  return largest;
}

inline void expect_close(ConstTensorView actual, const Values& expected, double tolerance, const char* what) {
  const Values got = values_of(actual);
  ASSERT_EQ(got.size(), expected.size()) << what;
  const double scale = std::max(largest_magnitude(expected), 1e-3);
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], tolerance * scale) << what << " element " << i;
  }
}

/// d function / d x by central differences.
inline Values numeric_gradient(const std::function<double(const Values&)>& function, Values x) {
  Values gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double h = 1e-5 * std::max(1.0, std::abs(x[i]));
    const double kept = x[i];
    x[i] = kept + h;
    const double above = function(x);
    x[i] = kept - h;
    const double below = function(x);
    x[i] = kept;
    gradient[i] = (above - below) / (2 * h);
  }
  return gradient;
}

inline double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

inline Values add(Values a, const Values& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

inline size_t at(int64_t i) {
  return static_cast<size_t>(i);
}

}  // namespace dino::ops::testing
