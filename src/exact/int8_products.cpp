// SPDX-License-Identifier: Apache-2.0
#include "exact/int8_products.hpp"

#include <cstring>

#include "base/cpu.hpp"
#include "base/error.hpp"

namespace dino::exact {

Int8Unit int8_unit() {
  if (!cpu_has_vnni()) return Int8Unit::none;
  return cpu_has_amx_int8() ? Int8Unit::amx : Int8Unit::vnni;
}

void pack_int8(int64_t column, int64_t k, const uint8_t* row, uint8_t* packed) {
  uint8_t* to = packed + column / kInt8Columns * kInt8Columns * k + column % kInt8Columns * 4;
  for (int64_t p = 0; p < k; p += 4) std::memcpy(to + p * kInt8Columns, row + p, 4);
}

void int8_products(int64_t m, int64_t n, int64_t k, const int8_t* a, const uint8_t* packed,
                   const int32_t* start, int32_t* out) {
  DINO_CHECK(m % kInt8Rows == 0 && n % kInt8Columns == 0 && k % kInt8Depth == 0 && k <= kInt8MaxDepth,
             "products of bytes come in whole tiles");
  switch (int8_unit()) {
    case Int8Unit::amx:
      return detail::int8_products_amx(m, n, k, a, packed, start, out);
    case Int8Unit::vnni:
      return detail::int8_products_vnni(m, n, k, a, packed, start, out);
    case Int8Unit::none:
      throw InternalError("products of bytes on a CPU without a unit for them");
  }
}

uint64_t int8_at_least(const int32_t* x, int32_t limit) {
  return detail::int8_at_least_avx512(x, limit);
}

}  // namespace dino::exact
