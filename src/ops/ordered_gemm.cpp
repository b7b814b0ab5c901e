// SPDX-License-Identifier: Apache-2.0
#include "ops/ordered_gemm.hpp"

#include <cmath>

namespace dino::ops {

float ordered_dot(const float* a, const float* b, int64_t k) {
  float sum = 0;
  for (int64_t i = 0; i < k; ++i) sum = std::fma(a[i], b[i], sum);
  return sum;
}

void ordered_gemm_nt(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                     int64_t ldb, float* c, int64_t ldc) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = ordered_dot(a + i * lda, b + j * ldb, k);
}

}  // namespace dino::ops
