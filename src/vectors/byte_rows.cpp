// SPDX-License-Identifier: Apache-2.0
#include "vectors/byte_rows.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/random.hpp"

namespace dino {
namespace {

/// Threads are not woken for so few.
constexpr int64_t kFewQueries = 128;
constexpr double kHalfUlp = 0x1.0p-24;
/// Below this a square may be lost to underflow.
constexpr double kTiny = 1e-30;
/// Scales above the mean of the rows' largest elements: a few elements are cut, most rows lose less.
constexpr double kAboveMean = 1.1;

/// Unnormalised Walsh-Hadamard transform of n = 2^m >= 4 elements, in place.
void hadamard(float* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i += 4) {
    const float a = x[i] + x[i + 1], b = x[i] - x[i + 1], c = x[i + 2] + x[i + 3], d = x[i + 2] - x[i + 3];
    x[i] = a + c;
    x[i + 1] = b + d;
    x[i + 2] = a - c;
    x[i + 3] = b - d;
  }
  for (int64_t half = 4; half < n; half *= 2)
    for (int64_t begin = 0; begin < n; begin += 2 * half)
#pragma omp simd
      for (int64_t i = begin; i < begin + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
}

double norm_of(const float* x, int64_t n) {
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return std::sqrt(squares);
}

float largest_of(const float* x, int64_t n) {
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  return largest;
}

struct Rounded {
  double norm = 0;  ///< |s a|
  double lost = 0;  ///< at least |x - s a|
  int32_t sum = 0;
};

/// bytes = x / scale to the nearest integer of -127..127, plus `offset`.
template <class Byte>
Rounded round_row(const float* x, int64_t n, double scale, int offset, Byte* bytes) {
  const auto step = static_cast<float>(scale), inverse = static_cast<float>(1 / scale);
  double squares = 0, lost = 0;
  int32_t sum = 0;
#pragma omp simd reduction(+ : squares, lost, sum)
  for (int64_t i = 0; i < n; ++i) {
    // Truncation of positive numbers rounds halves up.
    const float clipped = std::min(127.0F, std::max(-127.0F, x[i] * inverse));
    const int value = static_cast<int>(clipped + 128.5F) - 128;
    bytes[i] = static_cast<Byte>(value + offset);
    const float back = step * static_cast<float>(value), rest = x[i] - back;
    squares += static_cast<double>(back) * static_cast<double>(back);
    lost += static_cast<double>(rest) * static_cast<double>(rest);
    sum += value;
  }
  Rounded result;
  result.sum = sum;
  result.norm = std::sqrt(squares) * (1 + 1e-6);
  // step and step * value are rounded, and the difference is.
  result.lost = std::sqrt(lost) * (1 + 1e-6) + 4 * kHalfUlp * result.norm + kTiny;
  return result;
}

/// The scale for rows whose largest element is `largest` on average; 1 where all are zero.
double step_of(double largest) {
  const double step = kAboveMean * largest / 127;
  return step > kTiny && std::isfinite(step) ? step : 1;
}

}  // namespace

EvenRotation::EvenRotation(int64_t width)
    : width_(width), depth_((width + exact::kInt8Depth - 1) / exact::kInt8Depth * exact::kInt8Depth) {
  span_ = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(depth_)));
  stages_ = std::bit_width(static_cast<uint64_t>(span_)) - 1;
  for (int64_t i = 0; i < width; ++i)
    signs_.push_back((philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, {0, 0})[0] & 1) != 0 ? -1.0F : 1.0F);
}

void EvenRotation::apply(const float* x, const float* centre, float* out) const {
  const float* signs = signs_.data();
  if (centre != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < width_; ++i) out[i] = signs[i] * (x[i] - centre[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < width_; ++i) out[i] = signs[i] * x[i];
  }
  std::fill(out + width_, out + depth_, 0.0F);
  const auto unit = static_cast<float>(1 / std::sqrt(static_cast<double>(span_)));
  const auto turn = [&](float* part) {
    hadamard(part, span_);
#pragma omp simd
    for (int64_t i = 0; i < span_; ++i) part[i] *= unit;
  };
  turn(out);
  if (span_ < depth_) turn(out + depth_ - span_);
}

double EvenRotation::error() const {
  // A rounding each: the difference, the stages of both transforms, and their scales (and that of `unit`).
  return 1.01 * kHalfUlp * static_cast<double>(2 * (stages_ + 2) + 1);
}

void ByteBank::round(const EvenRotation& rotation, const float* rows, int64_t n, int64_t width,
                     const float* centre, double rounding, double query_scale) {
  const int64_t depth = rotation.depth(), used = (n + kBlock - 1) / kBlock;
  count = n;
  blocks.resize(static_cast<size_t>(used));
  bytes.resize(static_cast<size_t>(used * kBlock * depth));
  start.assign(static_cast<size_t>(used * kBlock), kNoRow);
#pragma omp parallel if (used > 1)
  {
    std::vector<float> turned(static_cast<size_t>(kBlock * depth));
    std::vector<uint8_t> row(static_cast<size_t>(depth));
#pragma omp for schedule(static)
    for (int64_t b = 0; b < used; ++b) {
      const int64_t first = b * kBlock, columns = std::min(kBlock, n - first);
      double largest = 0;
      for (int64_t j = 0; j < columns; ++j) {
        float* to = turned.data() + j * depth;
        rotation.apply(rows + (first + j) * width, centre, to);
        largest += static_cast<double>(largest_of(to, depth));
      }
      Block& block = blocks[static_cast<size_t>(b)];
      block = {step_of(largest / static_cast<double>(columns)), 0};
      for (int64_t j = 0; j < columns; ++j) {
        const float* from = turned.data() + j * depth;
        const Rounded rounded = round_row(from, depth, block.scale, 128, row.data());
        exact::pack_int8(j, depth, row.data(), bytes.data() + first * depth);
        block.norm = std::max(block.norm, rounded.norm);
        const double lost = rounded.lost + rotation.error() * norm_of(from, depth) +
                            rounding * norm_of(rows + (first + j) * width, width);
        const double begin = std::ceil(lost / (block.scale * query_scale));
        // Not a number either where the row is not of finite size.
        start[static_cast<size_t>(first + j)] =
            begin <= static_cast<double>(kLargestStart) ? static_cast<int32_t>(begin) : kAnyQuery;
      }
    }
  }
}

void ByteQueries::round(const EvenRotation& rotation, const float* rows, int64_t n, int64_t width,
                        const float* centre) {
  const int64_t depth = rotation.depth();
  count = n;
  queries.assign(static_cast<size_t>(n), {});
  bytes.assign(static_cast<size_t>((n + exact::kInt8Rows - 1) / exact::kInt8Rows * exact::kInt8Rows * depth),
               0);
  std::vector<float> turned(static_cast<size_t>(n * depth));
  double largest = 0;
  int64_t counted = 0;
#pragma omp parallel for schedule(static) reduction(+ : largest, counted) if (n > kFewQueries)
  for (int64_t i = 0; i < n; ++i) {
    float* to = turned.data() + i * depth;
    rotation.apply(rows + i * width, nullptr, to);
    const double share = static_cast<double>(largest_of(to, depth)) / norm_of(rows + i * width, width);
    if (std::isfinite(share)) largest += share, ++counted;
  }
  scale = step_of(largest / static_cast<double>(std::max<int64_t>(counted, 1)));
  const double centre_norm = centre != nullptr ? norm_of(centre, width) : 0;
#pragma omp parallel for schedule(static) if (n > kFewQueries)
  for (int64_t i = 0; i < n; ++i) {
    const float *row = rows + i * width, *from = turned.data() + i * depth;
    const double norm = norm_of(row, width);
    Query& query = queries[static_cast<size_t>(i)];
    query.step = scale * norm;
    const Rounded rounded = round_row(from, depth, query.step, 0, bytes.data() + i * depth);
    query.lost = rounded.lost + rotation.error() * norm_of(from, depth);
    query.offset = 128 * rounded.sum;
    for (int64_t j = 0; centre != nullptr && j < width; ++j)
      query.shift += static_cast<double>(centre[j]) * static_cast<double>(row[j]);
    query.slack = 1e-11 * centre_norm * norm;
  }
}

int32_t ByteQueries::limit(int64_t i, const ByteBank::Block& block, double similarity) const {
  const Query& query = queries[static_cast<size_t>(i)];
  const double least =
      (similarity - query.shift - query.slack - block.norm * query.lost) / (block.scale * query.step) +
      query.offset;
  constexpr double kAll = -(1 << 29), kNone = (1 << 29) + 1;
  // One less than the largest integer below: for the rounding of this line. Not a number: nothing is
  // excluded.
  return least > kAll ? static_cast<int32_t>(std::max(kAll, std::min(kNone, std::floor(least) - 1)))
                      : static_cast<int32_t>(kAll);
}

double ByteQueries::bound(int64_t i, const ByteBank::Block& block, int32_t product) const {
  const Query& query = queries[static_cast<size_t>(i)];
  if (product > (1 << 29)) return std::numeric_limits<double>::infinity();
  const double bound = block.scale * query.step * static_cast<double>(int64_t{product} + 1 - query.offset) +
                       block.norm * query.lost + query.shift + query.slack;
  return std::isnan(bound) ? std::numeric_limits<double>::infinity() : bound;
}

}  // namespace dino
