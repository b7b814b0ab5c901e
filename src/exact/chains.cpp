// SPDX-License-Identifier: Apache-2.0
#include "exact/chains.hpp"

#include "base/cpu.hpp"
#include "exact/ordered_gemm.hpp"

namespace dino::exact {

void ordered_dots(const float* const* a, const float* const* b, int64_t count, int64_t k, float* out) {
  if (count > 1 && cpu_level() >= CpuLevel::avx2) {
    const float *left[kChains], *right[kChains];
    float products[kChains];
    for (int64_t i = 0; i < kChains; ++i) {
      left[i] = a[i < count ? i : 0];
      right[i] = b[i < count ? i : 0];
    }
    detail::eight_chains_avx2(left, right, k, products);
    for (int64_t i = 0; i < count; ++i) out[i] = products[i];
    return;
  }
  for (int64_t i = 0; i < count; ++i) out[i] = ordered_dot(a[i], b[i], k);
}

}  // namespace dino::exact
