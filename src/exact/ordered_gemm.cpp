// SPDX-License-Identifier: Apache-2.0
#include "exact/ordered_gemm.hpp"

#include "ops/cpu/kernels.hpp"

namespace dino::exact {

void ordered_gemm_nt(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                     int64_t ldb, float* c, int64_t ldc) {
  ops::kernels().ordered_gemm(m, n, k, a, lda, b, ldb, c, ldc);
}

float ordered_dot(const float* a, const float* b, int64_t k) {
  return ops::kernels().ordered_dot(a, b, k);
}

void bound_gemm_nt(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                   float* c, int64_t ldc) {
  ops::kernels().gemm_nt(m, n, k, a, lda, b, ldb, c, ldc);
}

uint64_t at_least(const float* x, int64_t n, float limit) {
  return ops::kernels().at_least(x, n, limit);
}

}  // namespace dino::exact
