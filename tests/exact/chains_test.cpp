// SPDX-License-Identifier: Apache-2.0
#include "exact/chains.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "base/cpu.hpp"
#include "base/random.hpp"
#include "exact/ordered_gemm.hpp"

namespace dino {
namespace {

TEST(OrderedDots, EqualTheSingleChainBitForBit) {
  const CpuLevel before = cpu_level();
  Random random(6, RandomStream::test, 6);
  for (const int64_t k : {1, 7, 64, 513}) {
    std::vector<float> values(static_cast<size_t>(16 * k));
    for (float& value : values) value = static_cast<float>(random.normal());
    const float *a[exact::kChains], *b[exact::kChains];
    for (int64_t i = 0; i < exact::kChains; ++i) {
      a[i] = values.data() + i * k;
      b[i] = values.data() + (exact::kChains + i) * k;
    }
    for (const CpuLevel level : available_cpu_levels()) {
      set_cpu_level(level);
      for (int64_t count = 0; count <= exact::kChains; ++count) {
        float out[exact::kChains];
        exact::ordered_dots(a, b, count, k, out);
        for (int64_t i = 0; i < count; ++i) EXPECT_EQ(out[i], exact::ordered_dot(a[i], b[i], k));
      }
    }
  }
  set_cpu_level(before);
}

}  // namespace
}  // namespace dino
