// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "exact/int8_products.hpp"

namespace dino::exact::detail {
namespace {

constexpr int kGroups = 4;

/// Depth of a panel of 64 columns that stays in the first cache while rows pass.
constexpr int64_t kPanelDepth = 256;

/// out[R, 64 columns] = start (or `out` itself) + the products of `depth` steps: R x 4 accumulators, four
/// vectors of columns, one broadcast.
template <int R>
void tile(int64_t n, int64_t k, int64_t depth, const int8_t* a, const uint8_t* panel, const int32_t* start,
          int64_t start_stride, int32_t* out) {
  __m512i sums[R][kGroups];
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < kGroups; ++j) sums[i][j] = _mm512_loadu_si512(start + i * start_stride + j * 16);
  for (int64_t p = 0; p < depth; p += 4) {
    __m512i right[kGroups];
    for (int j = 0; j < kGroups; ++j) right[j] = _mm512_loadu_si512(panel + p * kInt8Columns + j * 64);
    for (int i = 0; i < R; ++i) {
      int32_t four;
      __builtin_memcpy(&four, a + i * k + p, sizeof four);
      const __m512i left = _mm512_set1_epi32(four);
      for (int j = 0; j < kGroups; ++j) sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], right[j], left);
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < kGroups; ++j) _mm512_storeu_si512(out + i * n + j * 16, sums[i][j]);
}

}  // namespace

void int8_products_vnni(int64_t m, int64_t n, int64_t k, const int8_t* a, const uint8_t* packed,
                        const int32_t* start, int32_t* out) {
  for (int64_t j = 0; j < n; j += kInt8Columns) {
    for (int64_t p = 0; p < k; p += kPanelDepth) {
      const int64_t depth = k - p < kPanelDepth ? k - p : kPanelDepth;
      const uint8_t* panel = packed + j * k + p * kInt8Columns;
      const int8_t* rows = a + p;
      int32_t* to = out + j;
      // Later panels go on from what is there.
      const int32_t* from = p == 0 ? start + j : to;
      const int64_t stride = p == 0 ? 0 : n;
      int64_t i = 0;
      for (; i + 6 <= m; i += 6)
        tile<6>(n, k, depth, rows + i * k, panel, from + i * stride, stride, to + i * n);
      for (; i < m; i += 2) tile<2>(n, k, depth, rows + i * k, panel, from + i * stride, stride, to + i * n);
    }
  }
}

uint64_t int8_at_least_avx512(const int32_t* x, int32_t limit) {
  const __m512i bound = _mm512_set1_epi32(limit);
  uint64_t hits = 0;
  for (int j = 0; j < kGroups; ++j)
    hits |= static_cast<uint64_t>(_mm512_cmpge_epi32_mask(_mm512_loadu_si512(x + j * 16), bound)) << (j * 16);
  return hits;
}

}  // namespace dino::exact::detail
