// SPDX-License-Identifier: Apache-2.0
#pragma once
// Matrix products whose every element is one chain of fused multiply-adds over k in ascending order, whatever
// the instruction set, the number of threads or the partition of rows: results that decide something (which
// pair is a duplicate, which cluster a row joins) are then the same bytes everywhere.

#include <cstdint>

namespace dino::exact {

/// c[M,N] = a[M,K] b[N,K]^T, row-major with row strides lda, ldb, ldc (in floats), c[i][j] = fma chain over k
/// = 0..K-1 starting from 0. Runs on the calling thread only; call it from an OpenMP loop over tiles.
/// Bit-identical on every CPU level.
void ordered_gemm_nt(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                     int64_t ldb, float* c, int64_t ldc);

/// The chain for one pair; equals the matching element of ordered_gemm_nt bit for bit.
[[nodiscard]] float ordered_dot(const float* a, const float* b, int64_t k);

/// |computed - exact| <= rounding_of(k) |a||b| for an inner product of k terms summed in order, fused or not.
[[nodiscard]] constexpr double rounding_of(int64_t k) {
  return 1.01 * 0x1.0p-24 * static_cast<double>(k);
}

/// The same product, where the last bits may differ between CPU levels: for bounds and proposals, which
/// ordered products then settle. Much faster than they are on a CPU without fused multiply-adds.
void bound_gemm_nt(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                   float* c, int64_t ldc);

/// Bit i is set where x[i] >= limit, for i < n <= 64.
[[nodiscard]] uint64_t at_least(const float* x, int64_t n, float limit);

}  // namespace dino::exact
