// SPDX-License-Identifier: Apache-2.0
#include <immintrin.h>

#include "exact/int8_products.hpp"

namespace dino::exact::detail {
namespace {

/// Eight tiles of 16 rows of 64 bytes: 0 to 3 hold 32 x 32 results, 4 and 5 the left operand's rows, 6 and 7
/// two groups of the right operand's columns.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

}  // namespace

void int8_products_amx(int64_t m, int64_t n, int64_t k, const int8_t* a, const uint8_t* packed,
                       const int32_t* start, int32_t* out) {
  const TileConfiguration configuration;
  _tile_loadconfig(&configuration);
  const int64_t stride = n * static_cast<int64_t>(sizeof(int32_t));
  for (int64_t j = 0; j < n; j += 32) {
    const uint8_t* columns = packed + j / kInt8Columns * kInt8Columns * k + j % kInt8Columns * 4;
    for (int64_t i = 0; i < m; i += 32) {
      // A stride of 0 gives every row the same start.
      _tile_loadd(0, start + j, 0);
      _tile_loadd(1, start + j + 16, 0);
      _tile_loadd(2, start + j, 0);
      _tile_loadd(3, start + j + 16, 0);
      const int8_t* rows = a + i * k;
      for (int64_t p = 0; p < k; p += 64) {
        _tile_loadd(4, rows + p, k);
        _tile_loadd(6, columns + p * kInt8Columns, 4 * kInt8Columns);
        _tile_loadd(7, columns + p * kInt8Columns + 64, 4 * kInt8Columns);
        _tile_loadd(5, rows + 16 * k + p, k);
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
      }
      int32_t* to = out + i * n + j;
      _tile_stored(0, to, stride);
      _tile_stored(1, to + 16, stride);
      _tile_stored(2, to + 16 * n, stride);
      _tile_stored(3, to + 16 * n + 16, stride);
    }
  }
  _tile_release();
}

}  // namespace dino::exact::detail
