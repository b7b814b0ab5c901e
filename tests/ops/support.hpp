// SPDX-License-Identifier: Apache-2.0
#pragma once
// One test body per operator runs on every backend: the reference, and the CPU backend at each instruction
// set of this machine, with f32, bf16 and f16 activations. Expectations are fp64 arithmetic written in the
// test; gradients are central differences of that arithmetic. Tensors live in the backend's memory, between
// guard words; a test prepares and reads them through the host's copies.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "base/cpu.hpp"
#include "base/random.hpp"
#include "ops/ops.hpp"

namespace dino::ops::testing {

using Values = std::vector<double>;

inline size_t at(int64_t i) {
  return static_cast<size_t>(i);
}

/// The dtypes of activations.
constexpr std::array kActs = {DType::f32, DType::bf16, DType::f16};

struct Variant {
  Backend* backend;
  CpuLevel level;
  DType act;
  [[nodiscard]] bool is_cpu() const { return std::string(backend->name()) == "cpu"; }
  [[nodiscard]] std::string name() const { return is_cpu() ? cpu_level_name(level) : backend->name(); }
};

inline void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.name() << ' ' << name_of(variant.act);
}

/// The highest level comes first: oneDNN fixes its instruction set at its first product.
inline std::vector<Variant> variants(bool all_dtypes = true) {
  std::vector<Variant> all;
  for (const DType act : kActs) {
    if (act != DType::f32 && !all_dtypes) continue;
    for (Backend* backend : backends()) {
      const Variant plain{backend, cpu_level(), act};
      const std::vector<CpuLevel> levels =
          plain.is_cpu() ? available_cpu_levels() : std::vector<CpuLevel>{plain.level};
      for (size_t i = levels.size(); i-- > 0;) all.push_back({backend, levels[i], act});
    }
  }
  return all;
}

inline std::string variant_name(const ::testing::TestParamInfo<Variant>& info) {
  return info.param.name() + "_" + name_of(info.param.act);
}

/// Rounded to the dtype of a host tensor of activations.
inline void set_value(Tensor& tensor, int64_t i, float value) {
  if (tensor.dtype() == DType::bf16)
    tensor.as<bf16>()[i] = bf16(value);
  else if (tensor.dtype() == DType::f16)
    tensor.as<f16>()[i] = f16(value);
  else
    tensor.as<float>()[i] = value;
}

/// Standard normal numbers times `scale`, rounded to the dtype.
inline Tensor random_tensor(Shape shape, DType dtype, uint64_t seed, double scale = 1) {
  Tensor tensor(shape, dtype);
  Random random(seed, RandomStream::test, 0);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    set_value(tensor, i, static_cast<float>(random.normal() * scale));
  }
  return tensor;
}

/// A host tensor of these numbers, in rows of `columns` unless that is 0.
template <class T>
Tensor tensor_of(const std::vector<T>& values, int64_t columns = 0) {
  const auto n = static_cast<int64_t>(values.size());
  Tensor tensor(columns == 0 ? Shape{n} : Shape{n / columns, columns}, detail::DTypeOf<T>::value);
  std::copy(values.begin(), values.end(), tensor.as<T>());
  return tensor;
}

/// Of a host tensor.
inline Values host_values(ConstTensorView tensor) {
  Values values(at(tensor.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    if (tensor.dtype == DType::bf16)
      values[i] = static_cast<double>(static_cast<float>(tensor.as<bf16>()[i]));
    else if (tensor.dtype == DType::f16)
      values[i] = static_cast<double>(static_cast<float>(tensor.as<f16>()[i]));
    else if (tensor.dtype == DType::f64)
      values[i] = tensor.as<double>()[i];
    else if (tensor.dtype == DType::i64)
      values[i] = static_cast<double>(tensor.as<int64_t>()[i]);
    else
      values[i] = static_cast<double>(tensor.as<float>()[i]);
  }
  return values;
}

class OperatorTest : public ::testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    level_before_ = cpu_level();
    set_cpu_level(GetParam().level);
    stream_ = ops().new_stream();
  }
  void TearDown() override {
    EXPECT_EQ(damage(), "");
    tensors_.clear();
    set_cpu_level(level_before_);
  }
  [[nodiscard]] Backend& ops() const { return *GetParam().backend; }
  [[nodiscard]] Stream& stream() const { return *stream_; }
  [[nodiscard]] DType act() const { return GetParam().act; }
  [[nodiscard]] bool is_reference() const { return GetParam().name() == "reference"; }
  /// f32's, or that of 16-bit activations: `of_bf16` is some number of roundings (2^-9 each), and f16 is four
  /// times as fine (2^-11).
  [[nodiscard]] double by_act(double of_f32, double of_bf16) const {
    return act() == DType::f32 ? of_f32 : act() == DType::bf16 ? of_bf16 : of_bf16 / 4;
  }
  /// Relative to the largest expected value: f32 sums, or roundings of inputs and output.
  [[nodiscard]] double tolerance() const { return by_act(4e-6, 8e-3); }

  // ---- tensors of the backend, which live as long as the test

  /// What operators must not write. NaN stands on both sides, so that a read beyond it shows.
  ConstTensorView input(const Tensor& host) { return place(host.view(), host.shape(), host.dtype(), true); }
  ConstTensorView random(Shape shape, DType dtype, uint64_t seed, double scale = 1) {
    return input(random_tensor(shape, dtype, seed, scale));
  }
  ConstTensorView list(const std::vector<int64_t>& values) { return input(tensor_of(values)); }
  ConstTensorView scalar(float value) { return input(tensor_of<float>({value})); }
  Sequences sequences(const std::vector<int64_t>& starts) {
    int64_t longest = 0;
    for (size_t s = 1; s < starts.size(); ++s) longest = std::max(longest, starts[s] - starts[s - 1]);
    return {list(starts), starts.back(), longest};
  }
  /// What operators change. Finite words stand on both sides, so that an addition beyond it shows.
  TensorView inout(const Tensor& host) { return place(host.view(), host.shape(), host.dtype(), false); }
  TensorView random_inout(Shape shape, DType dtype, uint64_t seed, double scale = 1) {
    return inout(random_tensor(shape, dtype, seed, scale));
  }
  TensorView zeros(Shape shape, DType dtype = DType::f32) { return inout(Tensor(shape, dtype)); }
  /// What operators write: NaN (or -1) until then.
  TensorView output(Shape shape, DType dtype = DType::f32) { return place({}, shape, dtype, false); }

  // ---- and what they hold

  [[nodiscard]] Tensor host_copy(ConstTensorView view) const {
    Tensor host(view.shape, view.dtype);
    copy(stream(), host, view);
    stream().synchronize();
    return host;
  }
  [[nodiscard]] Values values_of(ConstTensorView view) const { return host_values(host_copy(view)); }
  void expect_close(ConstTensorView actual, const Values& expected, double tolerance,
                    const char* what) const {
    const Values got = values_of(actual);
    ASSERT_EQ(got.size(), expected.size()) << what;
    double scale = 1e-3;
    for (const double v : expected) scale = std::max(scale, std::abs(v));
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], expected[i], tolerance * scale) << what << " element " << i;
  }
  /// Which tensors were written where no operator may write; empty when none was.
  [[nodiscard]] std::string damage() const {
    std::string report;
    for (const Placed& tensor : tensors_) {
      Tensor now(tensor.memory.shape(), DType::u8);
      copy(stream(), now, tensor.memory);
      stream().synchronize();
      const auto same = [&](size_t begin, size_t end) {
        return std::memcmp(now.as<uint8_t>() + begin, tensor.image.data() + begin, end - begin) == 0;
      };
      const size_t end = tensor.image.size() - kGuard;
      if (!same(0, kGuard)) report += " before " + tensor.name;
      if (!same(end, tensor.image.size())) report += " behind " + tensor.name;
      if (tensor.constant && !same(kGuard, end)) report += " the input " + tensor.name;
    }
    return report;
  }

 private:
  static constexpr size_t kGuard = 64;  ///< keeps a tensor aligned as those of an arena are
  struct Placed {
    Tensor memory;
    std::vector<uint8_t> image;  ///< what was put there, guards included
    bool constant;
    std::string name;
  };

  TensorView place(ConstTensorView host, Shape shape, DType dtype, bool constant) {
    const size_t bytes = at(shape.numel()) * size_of(dtype);
    std::vector<uint8_t> image(bytes + 2 * kGuard, constant ? 0xff : 0xa5);
    if (host)
      std::copy_n(static_cast<const uint8_t*>(host.data), bytes, image.begin() + kGuard);
    else
      std::fill_n(image.begin() + kGuard, bytes, uint8_t{0xff});
    const Shape all{static_cast<int64_t>(image.size())};
    Tensor memory = Tensor::uninitialised(all, DType::u8, ops().memory());
    copy(stream(), memory, view_of(static_cast<const uint8_t*>(image.data()), all));
    const std::string name = "#" + std::to_string(tensors_.size()) + " " + name_of(dtype) + shape.str();
    tensors_.push_back({std::move(memory), std::move(image), constant, name});
    void* data = static_cast<uint8_t*>(tensors_.back().memory.view().data) + kGuard;
    return {data, shape, dtype, ops().memory().device()};
  }

  CpuLevel level_before_ = CpuLevel::baseline;
  std::unique_ptr<Stream> stream_;
  std::deque<Placed> tensors_;
};

/// As the products see a weight: rounded to the activations' dtype.
inline Values rounded(Values values, DType dtype) {
  if (dtype == DType::bf16)
    for (double& v : values) v = static_cast<double>(static_cast<float>(bf16(static_cast<float>(v))));
  if (dtype == DType::f16)
    for (double& v : values) v = static_cast<double>(static_cast<float>(f16(static_cast<float>(v))));
  return values;
}

inline double largest_magnitude(const Values& values) {
  double largest = 0;
  for (const double v : values) largest = std::max(largest, std::abs(v));
  return largest;
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

}  // namespace dino::ops::testing
