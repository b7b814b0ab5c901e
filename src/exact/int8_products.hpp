// SPDX-License-Identifier: Apache-2.0
#pragma once
// Products of 8-bit integers, exact in 32 bits, where the CPU multiplies bytes: several times the rate of f32
// products. For bounds and proposals, which ordered products then settle.

#include <cstdint>

namespace dino::exact {

/// Rows, columns and depth of a product are multiples of these; the caller fills up with zeros.
constexpr int64_t kInt8Rows = 32, kInt8Columns = 64, kInt8Depth = 64;
/// Largest depth: |product| <= 255 * 127 * 8192 < 2^28.
constexpr int64_t kInt8MaxDepth = 8192;

enum class Int8Unit : uint8_t { none, vnni, amx };
/// What cpu_level() leaves of this CPU's units; `none` where bytes are multiplied no faster than floats.
[[nodiscard]] Int8Unit int8_unit();

/// Stores row `column` (k bytes) of the right operand in the order that the units read: by 64 columns, four
/// steps of depth of each column side by side.
void pack_int8(int64_t column, int64_t k, const uint8_t* row, uint8_t* packed);

/// out[m, n] = start[n] + a[m, k] b[n, k]^T, all dense; a signed, b unsigned and packed. Runs on the calling
/// thread. Needs int8_unit() != none.
void int8_products(int64_t m, int64_t n, int64_t k, const int8_t* a, const uint8_t* packed,
                   const int32_t* start, int32_t* out);

/// Bit i is set where x[i] >= limit, for i < 64. Needs int8_unit() != none.
[[nodiscard]] uint64_t int8_at_least(const int32_t* x, int32_t limit);

namespace detail {
void int8_products_vnni(int64_t m, int64_t n, int64_t k, const int8_t* a, const uint8_t* packed,
                        const int32_t* start, int32_t* out);
void int8_products_amx(int64_t m, int64_t n, int64_t k, const int8_t* a, const uint8_t* packed,
                       const int32_t* start, int32_t* out);
uint64_t int8_at_least_avx512(const int32_t* x, int32_t limit);
}  // namespace detail

}  // namespace dino::exact
