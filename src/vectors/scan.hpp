// SPDX-License-Identifier: Apache-2.0
#pragma once
// Finds the few large values of a row of scores.

#include <cstdint>

namespace dino {

/// Calls visit(j) for every j in ascending order with values[j] >= limit. `limit` is read again for every
/// block of 16, and `visit` may raise it: a value below the raised limit may then still be reported.
template <class Visit>
void for_each_at_least(const float* values, int64_t n, const float& limit, Visit&& visit) {
  constexpr int64_t kBlock = 16;
  int64_t begin = 0;
  for (; begin + kBlock <= n; begin += kBlock) {
    const float* block = values + begin;
    const float least = limit;
    int hit = 0;
#pragma omp simd reduction(| : hit)
    for (int64_t j = 0; j < kBlock; ++j) hit |= static_cast<int>(block[j] >= least);
    if (hit == 0) continue;
    for (int64_t j = 0; j < kBlock; ++j) {
      if (block[j] >= least) visit(begin + j);
    }
  }
  for (; begin < n; ++begin) {
    if (values[begin] >= limit) visit(begin);
  }
}

}  // namespace dino
