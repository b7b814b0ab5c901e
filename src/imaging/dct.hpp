// SPDX-License-Identifier: Apache-2.0
#pragma once
// Cosine transforms whose result is the same on every machine: integer arithmetic on a table that is made
// with additions, products and square roots only (the C library's cos may differ in its last bit).

#include <array>
#include <cstdint>

#include "imaging/image.hpp"

namespace dino::imaging {

constexpr int64_t kDctSide = 32;

/// round(2^14 * cos((2 x + 1) u pi / 64)), row u, column x.
const std::array<std::array<int32_t, kDctSide>, kDctSide>& dct_table();

/// Gray (PIL's L, one channel) of an RGB image.
Image gray_of(const Image& image);

/// Unnormalised DCT-II of a 32 x 32 plane for the low frequencies u, v < `n`: out[v * n + u], scaled by 2^14
/// per pass and divided by 2^14 once. The plane's mean is removed first, so a flat one gives exact zeros.
void dct_low(const std::array<int32_t, kDctSide * kDctSide>& plane, int64_t n, int64_t* out);

}  // namespace dino::imaging
