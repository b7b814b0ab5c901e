// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside comm/ only: sums that depend on nothing but the values and the number of ranks.

#include <cstdint>

namespace dino::mpi {

/// out[i] = sum over ranks r of parts[r * n + i], in rank order with a double accumulator: the result is a
/// function of the values alone, whatever algorithm MPI picks for the transfer.
template <class T>
void sum_in_rank_order(const T* parts, int ranks, int64_t n, T* out) {
  for (int64_t i = 0; i < n; ++i) {
    double total = 0;
    for (int r = 0; r < ranks; ++r) total += static_cast<double>(parts[r * n + i]);
    out[i] = static_cast<T>(total);
  }
}

}  // namespace dino::mpi
