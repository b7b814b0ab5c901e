// SPDX-License-Identifier: Apache-2.0
// What stands in for ops/cuda/blas.cpp: plain loops.
#include "ops/cuda/blas.hpp"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.hpp"
#include "simt/device.hpp"

namespace dino::cuda {
namespace {

size_t count(int64_t rows, int64_t columns) {
  return static_cast<size_t>(rows) * static_cast<size_t>(columns);
}

/// Of the device's memory, as f32.
std::vector<float> read(const void* data, size_t n, DType dtype) {
  std::vector<float> values(n);
  const void* const open = simt::device_memory().open(data, n * size_of(dtype));
  for (size_t i = 0; i < n; ++i) {
    if (dtype == DType::bf16)
      values[i] = static_cast<float>(static_cast<const bf16*>(open)[i]);
    else if (dtype == DType::f16)
      values[i] = static_cast<float>(static_cast<const f16*>(open)[i]);
    else
      values[i] = static_cast<const float*>(open)[i];
  }
  return values;
}

/// To nearest, to 10 bits behind the point.
void round_to_tf32(std::vector<float>& values) {
  for (float& value : values) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isfinite(value)) bits = (bits + 0x1000u) & ~0x1fffu;
    std::memcpy(&value, &bits, sizeof bits);
  }
}

void write(void* data, const std::vector<float>& values, DType dtype) {
  void* const open = simt::device_memory().open(data, values.size() * size_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::bf16)
      static_cast<bf16*>(open)[i] = bf16(values[i]);
    else if (dtype == DType::f16)
      static_cast<f16*>(open)[i] = f16(values[i]);
    else
      static_cast<float*>(open)[i] = values[i];
  }
}

std::vector<float> transposed(const std::vector<float>& x, size_t rows, size_t columns) {
  std::vector<float> y(x.size());
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < columns; ++c) y[c * rows + r] = x[r * columns + c];
  return y;
}

void run(const Product& p) {
  const auto m = static_cast<size_t>(p.m), n = static_cast<size_t>(p.n), k = static_cast<size_t>(p.k);
  std::vector<float> a = read(p.a, m * k, p.operands), b = read(p.b, k * n, p.operands);
  if (p.tf32) {
    round_to_tf32(a);
    round_to_tf32(b);
  }
  if (p.transpose_a) a = transposed(a, k, m);
  if (p.transpose_b) b = transposed(b, n, k);
  std::vector<float> bias(n);
  if (p.bias != nullptr) bias = read(p.bias, n, p.result);
  std::vector<float> c = p.accumulate ? read(p.c, m * n, p.result) : std::vector<float>(m * n);
  std::vector<float> row(n);
  for (size_t i = 0; i < m; ++i) {
    std::fill(row.begin(), row.end(), 0.0f);
    for (size_t l = 0; l < k; ++l) {
      const float x = a[i * k + l];
      const float* const other = &b[l * n];
      float* const sums = row.data();
#pragma GCC ivdep
      for (size_t j = 0; j < n; ++j) sums[j] += x * other[j];
    }
    for (size_t j = 0; j < n; ++j) c[i * n + j] += row[j] + bias[j];
  }
  write(p.c, c, p.result);
}

}  // namespace

void multiply(CudaStream& stream, const Product& p) {
  DINO_CHECK(p.m > 0 && p.n > 0 && p.k > 0, "a product without elements");
  DINO_CHECK(p.result == DType::f32 || p.result == p.operands, "a product of that type of numbers");
  (void)simt::device_memory().open(p.a, count(p.m, p.k) * size_of(p.operands));
  (void)simt::device_memory().open(p.b, count(p.k, p.n) * size_of(p.operands));
  (void)simt::device_memory().open(p.c, count(p.m, p.n) * size_of(p.result));
  const auto bytes =
      static_cast<double>(p.m * p.k + p.k * p.n + p.m * p.n) * static_cast<double>(size_of(p.operands));
  simt::enqueue(
      stream.handle(), [p] { run(p); }, simt::pace().copy + simt::pace().byte * bytes);
}

std::string describe_blas() {
  return "plain loops";
}

}  // namespace dino::cuda
