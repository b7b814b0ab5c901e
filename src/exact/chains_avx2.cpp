// SPDX-License-Identifier: Apache-2.0
#include "exact/chains.hpp"

namespace dino::exact::detail {

void eight_chains_avx2(const float* const* a, const float* const* b, int64_t k, float* out) {
  const float *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3], *a4 = a[4], *a5 = a[5], *a6 = a[6], *a7 = a[7];
  const float *b0 = b[0], *b1 = b[1], *b2 = b[2], *b3 = b[3], *b4 = b[4], *b5 = b[5], *b6 = b[6], *b7 = b[7];
  float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
  for (int64_t p = 0; p < k; ++p) {
    s0 = __builtin_fmaf(a0[p], b0[p], s0);
    s1 = __builtin_fmaf(a1[p], b1[p], s1);
    s2 = __builtin_fmaf(a2[p], b2[p], s2);
    s3 = __builtin_fmaf(a3[p], b3[p], s3);
    s4 = __builtin_fmaf(a4[p], b4[p], s4);
    s5 = __builtin_fmaf(a5[p], b5[p], s5);
    s6 = __builtin_fmaf(a6[p], b6[p], s6);
    s7 = __builtin_fmaf(a7[p], b7[p], s7);
  }
  const float sums[] = {s0, s1, s2, s3, s4, s5, s6, s7};
  for (int i = 0; i < 8; ++i) out[i] = sums[i];
}

}  // namespace dino::exact::detail
