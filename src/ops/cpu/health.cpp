// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"

namespace dino::ops {
namespace {

/// Of one row of targets in one block of columns.
struct Part {
  double entropy;
  int64_t column;  ///< of the first largest element, -1 where none compares
  float largest;
};

double plogp(double p) {
  return p > 0 ? -p * std::log(p) : 0.0;
}

}  // namespace

void CpuBackend::target_statistics(Stream&, ConstTensorView targets, TensorView sums, TensorView entropy) {
  check::target_statistics(targets, sums, entropy);
  constexpr int64_t kColumns = 1024;
  const int64_t rows = targets.dim(0), k = targets.dim(1);
  const int64_t blocks = (k + kColumns - 1) / kColumns;
  thread_local Scratch scratch;
  auto* parts = static_cast<Part*>(scratch.bytes(static_cast<size_t>(blocks * rows) * sizeof(Part)));
  const float* in = targets.as<float>();
  float* totals = sums.as<float>();
  // Threads share the columns, so that each adds all rows in order.
  parallel_for(blocks, rows * kColumns, [&](int64_t block) {
    const int64_t c = block * kColumns;
    const int64_t n = std::min(kColumns, k - c);
    for (int64_t r = 0; r < rows; ++r) {
      Part& part = parts[block * rows + r];
      part.entropy = kernels().target_row(in + r * k + c, totals + c, n);
      const int64_t column = kernels().first_largest(in + r * k + c, n, &part.largest);
      part.column = column < 0 ? -1 : c + column;
    }
  });
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const Part* best = nullptr;
    for (int64_t block = 0; block < blocks; ++block) {
      const Part& part = parts[block * rows + r];
      total += part.entropy;
      if (part.column >= 0 && (best == nullptr || part.largest > best->largest)) best = &part;
    }
    if (k > 0) totals[k + (best != nullptr ? best->column : 0)] += 1.0f;
  }
  *entropy.as<double>() += total;
}

void CpuBackend::mean_target_statistics(Stream&, ConstTensorView sums, double rows, TensorView out) {
  check::mean_target_statistics(sums, out);
  constexpr int64_t kColumns = 4096;
  const int64_t k = sums.numel() / 2;
  const int64_t blocks = (k + kColumns - 1) / kColumns;
  thread_local Scratch scratch;
  auto* parts = static_cast<double*>(scratch.bytes(static_cast<size_t>(blocks) * sizeof(double)));
  const float* in = sums.as<float>();
  for_blocks(k, kColumns, [&](int64_t first, int64_t n) {
    double entropy = 0;
    for (int64_t i = first; i < first + n; ++i) entropy += plogp(static_cast<double>(in[i]) / rows);
    parts[first / kColumns] = entropy;
  });
  const auto used = std::count_if(in + k, in + 2 * k, [](float count) { return count > 0.0f; });
  double* to = out.as<double>();
  to[0] = std::accumulate(parts, parts + blocks, 0.0);
  to[1] = static_cast<double>(used) / static_cast<double>(k);
}

void CpuBackend::mean_column_std(Stream&, ConstTensorView x, TensorView out) {
  check::matrix(x);
  check::scalar(out, DType::f64);
  constexpr int64_t kColumns = 32;
  const int64_t rows = x.dim(0), d = x.dim(1);
  const int64_t blocks = (d + kColumns - 1) / kColumns;
  thread_local Scratch scratch;
  auto* parts = static_cast<double*>(scratch.bytes(static_cast<size_t>(blocks) * sizeof(double)));
  const float* in = x.as<float>();
  parallel_for(blocks, rows * kColumns, [&](int64_t block) {
    const int64_t first = block * kColumns;
    const int64_t n = std::min(kColumns, d - first);
    double sum[kColumns] = {}, squares[kColumns] = {};
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        const auto value = static_cast<double>(in[r * d + first + c]);
        sum[c] += value;
        squares[c] += value * value;
      }
    }
    parts[block] = 0;
    for (int64_t c = 0; c < n; ++c) {
      const double mean = sum[c] / static_cast<double>(rows);
      parts[block] += std::sqrt(std::max(squares[c] / static_cast<double>(rows) - mean * mean, 0.0));
    }
  });
  *out.as<double>() = std::accumulate(parts, parts + blocks, 0.0) / static_cast<double>(d);
}

}  // namespace dino::ops
