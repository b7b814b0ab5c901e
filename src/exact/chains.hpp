// SPDX-License-Identifier: Apache-2.0
#pragma once
// Ordered products of many pairs. One chain waits for each addition before the next; eight chains side by
// side keep the units busy.

#include <cstdint>

namespace dino::exact {

constexpr int64_t kChains = 8;

/// out[i] = ordered_dot(a[i], b[i], k), bit for bit, for i < count <= kChains.
void ordered_dots(const float* const* a, const float* const* b, int64_t count, int64_t k, float* out);

namespace detail {
/// Eight chains with one fused instruction per step; needs AVX2 and FMA.
void eight_chains_avx2(const float* const* a, const float* const* b, int64_t k, float* out);
}  // namespace detail

}  // namespace dino::exact
