// SPDX-License-Identifier: Apache-2.0
#pragma once
// Rows rounded to bytes, with what the rounding may change in an inner product. A row x is turned by a fixed
// orthogonal map H, which spreads its energy over the coordinates, and rounded to s a, a in -127..127:
//   x.y = c.y + s t (a.q) + (u - s a).v + s a.(v - t q),    u = H (x - c), v = H y,
// so that |u - s a||y| + |s a||v - t q| bounds what a product of bytes leaves out (Cauchy-Schwarz). The norms
// are those of the rows at hand, not estimates: what is excluded by the bound is excluded for certain.

#include <cstdint>
#include <vector>

#include "exact/int8_products.hpp"

namespace dino {

/// The orthogonal map: signs and two overlapping Hadamard transforms over rows filled up with zeros.
class EvenRotation {
 public:
  explicit EvenRotation(int64_t width);
  [[nodiscard]] int64_t depth() const { return depth_; }  ///< coordinates, a multiple of exact::kInt8Depth
  /// out[depth] = H (x - centre); `centre` may be null.
  void apply(const float* x, const float* centre, float* out) const;
  /// |computed - exact| <= error() |H (x - centre)|
  [[nodiscard]] double error() const;

 private:
  int64_t width_, depth_, span_ = 1, stages_ = 0;
  std::vector<float> signs_;
};

/// Rows of a bank, in blocks that share a scale s. Bytes are a + 128, packed.
struct ByteBank {
  static constexpr int64_t kBlock = 256;
  struct Block {
    double scale = 0;  ///< s
    double norm = 0;   ///< the largest |s a|
  };
  int64_t count = 0;
  std::vector<uint8_t> bytes;  ///< [blocks, kBlock, depth]
  std::vector<Block> blocks;
  /// What the product with each row begins with: at least (|u - s a| + rounding |x|) |y| / (s t), so that a
  /// row whose product is too small even so is excluded.
  std::vector<int32_t> start;
  static constexpr int32_t kNoRow = -(1 << 30);      ///< behind the last row
  static constexpr int32_t kAnyQuery = 1 << 30;      ///< of a row that is beyond what bytes can bound
  static constexpr int32_t kLargestStart = 1 << 28;  ///< of any other; products are smaller as well

  /// `rounding`: |computed - exact| <= rounding |x||y| for the products that decide; `query_scale`:
  /// ByteQueries::scale. Uses all threads; keeps its memory for the next call.
  void round(const EvenRotation& rotation, const float* rows, int64_t n, int64_t width, const float* centre,
             double rounding, double query_scale);
};

/// Queries as q, with scales t = scale |y|.
struct ByteQueries {
  int64_t count = 0;
  double scale = 0;
  std::vector<int8_t> bytes;  ///< [count filled up to exact::kInt8Rows, depth]
  struct Query {
    double step = 0;     ///< t
    double lost = 0;     ///< at least |v - t q|
    double shift = 0;    ///< c.y
    double slack = 0;    ///< of the rounding of c.y
    int32_t offset = 0;  ///< what the 128 in the bank's bytes adds to a product
  };
  std::vector<Query> queries;

  /// queries [n, width]. Uses all threads.
  void round(const EvenRotation& rotation, const float* rows, int64_t n, int64_t width, const float* centre);
  /// A row of the block whose product of bytes, begun with its start, is below this has a computed inner
  /// product with query i below `similarity`.
  [[nodiscard]] int32_t limit(int64_t i, const ByteBank::Block& block, double similarity) const;
  /// At least the computed inner product of query i and a row of the block whose product of bytes, begun with
  /// its start, is `product`.
  [[nodiscard]] double bound(int64_t i, const ByteBank::Block& block, int32_t product) const;
};

}  // namespace dino
