// SPDX-License-Identifier: Apache-2.0
#include "exact/int8_products.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "base/cpu.hpp"
#include "base/error.hpp"
#include "base/random.hpp"

namespace dino::exact {
namespace {

/// Levels that have a unit for bytes.
std::vector<CpuLevel> levels_with_bytes() {
  std::vector<CpuLevel> levels;
  for (const CpuLevel level : available_cpu_levels()) {
    set_cpu_level(level);
    if (int8_unit() != Int8Unit::none) levels.push_back(level);
  }
  set_cpu_level(available_cpu_levels().back());
  return levels;
}

struct Operands {
  std::vector<int8_t> a;
  std::vector<uint8_t> b;
  std::vector<int32_t> start;
};

/// Random bytes, with the extremes of both signs in the first rows.
Operands operands(int64_t m, int64_t n, int64_t k) {
  Operands made{
      std::vector<int8_t>(static_cast<size_t>(m * k)), std::vector<uint8_t>(static_cast<size_t>(n * k)), {}};
  Random random(static_cast<uint64_t>(k), RandomStream::test, 0);
  for (size_t i = 0; i < made.a.size(); ++i) {
    const auto row = static_cast<int64_t>(i) / k;
    made.a[i] = static_cast<int8_t>(row == 0   ? 127
                                    : row == 1 ? -127
                                               : static_cast<int>(random.below(255)) - 127);
  }
  for (size_t i = 0; i < made.b.size(); ++i)
    made.b[i] = static_cast<uint8_t>(static_cast<int64_t>(i) / k == 0 ? 255 : random.below(256));
  for (int64_t j = 0; j < n; ++j)
    made.start.push_back(static_cast<int32_t>(random.below(1 << 29)) - (1 << 28));
  return made;
}

TEST(Int8Products, EqualSumsOfIntegersAtEveryLevel) {
  struct Sizes {
    int64_t m, n, k;
  };
  for (const CpuLevel level : levels_with_bytes()) {
    SCOPED_TRACE(cpu_level_name(level));
    set_cpu_level(level);
    for (const Sizes s :
         {Sizes{32, 64, 64}, Sizes{64, 256, 320}, Sizes{32, 128, 768}, Sizes{32, 64, kInt8MaxDepth}}) {
      const Operands made = operands(s.m, s.n, s.k);
      std::vector<uint8_t> packed(made.b.size());
      for (int64_t j = 0; j < s.n; ++j) pack_int8(j, s.k, made.b.data() + j * s.k, packed.data());
      std::vector<int32_t> out(static_cast<size_t>(s.m * s.n + 1), 77);
      int8_products(s.m, s.n, s.k, made.a.data(), packed.data(), made.start.data(), out.data());
      for (int64_t i = 0; i < s.m; ++i)
        for (int64_t j = 0; j < s.n; ++j) {
          int64_t sum = made.start[static_cast<size_t>(j)];
          for (int64_t p = 0; p < s.k; ++p)
            sum +=
                int64_t{made.a[static_cast<size_t>(i * s.k + p)]} * made.b[static_cast<size_t>(j * s.k + p)];
          ASSERT_EQ(out[static_cast<size_t>(i * s.n + j)], sum) << s.k << ": " << i << ", " << j;
        }
      EXPECT_EQ(out.back(), 77);
    }
  }
}

TEST(Int8Products, LimitsAreInclusive) {
  for (const CpuLevel level : levels_with_bytes()) {
    set_cpu_level(level);
    std::vector<int32_t> x(64);
    for (int i = 0; i < 64; ++i) x[static_cast<size_t>(i)] = i % 3 == 0 ? 5 : i % 3 == 1 ? 4 : -6;
    uint64_t expected = 0;
    for (int i = 0; i < 64; ++i) expected |= static_cast<uint64_t>(i % 3 == 0) << i;
    EXPECT_EQ(int8_at_least(x.data(), 5), expected);
    EXPECT_EQ(int8_at_least(x.data(), -6), ~uint64_t{0});
    EXPECT_EQ(int8_at_least(x.data(), 6), 0U);
  }
}

TEST(Int8Products, RefusePartsOfTiles) {
  for (const CpuLevel level : levels_with_bytes()) {
    set_cpu_level(level);
    EXPECT_THROW(int8_products(31, 64, 64, nullptr, nullptr, nullptr, nullptr), InternalError);
  }
  set_cpu_level(CpuLevel::baseline);
  EXPECT_EQ(int8_unit(), Int8Unit::none);
  EXPECT_THROW(int8_products(32, 64, 64, nullptr, nullptr, nullptr, nullptr), InternalError);
  set_cpu_level(available_cpu_levels().back());
}

}  // namespace
}  // namespace dino::exact
