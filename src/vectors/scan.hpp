// SPDX-License-Identifier: Apache-2.0
#pragma once
// Finds the few large values of a row of scores.

#include <algorithm>
#include <bit>
#include <cstdint>

#include "exact/ordered_gemm.hpp"

namespace dino {

/// Multiplications from which threads are worth waking.
inline constexpr int64_t kParallelPays = 1 << 19;

/// Calls visit(j) for every j in ascending order with values[j] >= limit. `limit` is read again for every
/// block of up to 64, and `visit` may raise it: a value below the raised limit may then still be reported.
template <class Visit>
void for_each_at_least(const float* values, int64_t n, const float& limit, Visit&& visit) {
  // A short first block: where the limit starts low, the first values raise it for the rest.
  for (int64_t begin = 0, block = 16; begin < n; begin += block, block = 64) {
    const int64_t count = std::min(block, n - begin);
    for (uint64_t hits = exact::at_least(values + begin, count, limit); hits != 0; hits &= hits - 1)
      visit(begin + std::countr_zero(hits));
  }
}

}  // namespace dino
