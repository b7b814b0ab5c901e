// SPDX-License-Identifier: Apache-2.0
#include "exact/ordered_gemm.hpp"

#include <limits>

#include "ops/support.hpp"

namespace dino::exact {
namespace {

using ops::testing::random_tensor;

struct Sizes {
  int64_t m, n, k;
};

/// Every tile remainder of every instruction set, one column, no depth, and depths across the k blocks.
const std::vector<Sizes> kSizes = {{1, 1, 1},    {1, 1, 0},     {5, 3, 7},     {6, 64, 256},
                                   {7, 65, 257}, {13, 33, 600}, {24, 130, 48}, {3, 16, 1024}};

float chain(const float* a, const float* b, int64_t k) {
  float sum = 0;
  for (int64_t i = 0; i < k; ++i) sum = std::fma(a[i], b[i], sum);
  return sum;
}

TEST(OrderedGemmTest, EveryElementIsOneFmaChainAtEveryLevel) {
  for (const CpuLevel level : available_cpu_levels()) {
    SCOPED_TRACE(cpu_level_name(level));
    set_cpu_level(level);
    for (const Sizes& s : kSizes) {
      const int64_t lda = s.k + 3, ldb = s.k + 5, ldc = s.n + 2;
      const Tensor a = random_tensor({s.m, lda}, DType::f32, 1), b = random_tensor({s.n, ldb}, DType::f32, 2);
      Tensor c({s.m, ldc});
      for (float& v : c.f32()) v = 77;
      ordered_gemm_nt(s.m, s.n, s.k, a.as<float>(), lda, b.as<float>(), ldb, c.as<float>(), ldc);
      for (int64_t i = 0; i < s.m; ++i) {
        for (int64_t j = 0; j < ldc; ++j) {
          const float* left = a.as<float>() + i * lda;
          const float* right = b.as<float>() + j * ldb;
          const float got = c.as<float>()[i * ldc + j];
          if (j >= s.n) {
            ASSERT_EQ(got, 77) << "written outside";
            continue;
          }
          ASSERT_EQ(got, chain(left, right, s.k)) << i << ", " << j;
          ASSERT_EQ(ordered_dot(left, right, s.k), got);
        }
      }
    }
  }
  set_cpu_level(available_cpu_levels().back());
}

TEST(OrderedGemmTest, PartitionsGiveTheSameBits) {
  const int64_t m = 50, n = 70, k = 300;
  const Tensor a = random_tensor({m, k}, DType::f32, 3), b = random_tensor({n, k}, DType::f32, 4);
  Tensor whole({m, n}), parts({m, n});
  ordered_gemm_nt(m, n, k, a.as<float>(), k, b.as<float>(), k, whole.as<float>(), n);
  for (int64_t i = 0; i < m; i += 11)
    for (int64_t j = 0; j < n; j += 17)
      ordered_gemm_nt(std::min<int64_t>(11, m - i), std::min<int64_t>(17, n - j), k, a.as<float>() + i * k, k,
                      b.as<float>() + j * k, k, parts.as<float>() + i * n + j, n);
  for (int64_t i = 0; i < m * n; ++i) ASSERT_EQ(whole.as<float>()[i], parts.as<float>()[i]);
}

TEST(OrderedGemmTest, IsSymmetric) {
  const int64_t m = 20, k = 96;
  const Tensor a = random_tensor({m, k}, DType::f32, 5);
  Tensor c({m, m});
  ordered_gemm_nt(m, m, k, a.as<float>(), k, a.as<float>(), k, c.as<float>(), m);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < m; ++j) ASSERT_EQ(c.as<float>()[i * m + j], c.as<float>()[j * m + i]);
}

TEST(BoundGemmTest, IsWithinItsRoundingAtEveryLevel) {
  for (const CpuLevel level : available_cpu_levels()) {
    SCOPED_TRACE(cpu_level_name(level));
    set_cpu_level(level);
    for (const Sizes& s : kSizes) {
      const Tensor a = random_tensor({s.m, s.k}, DType::f32, 6), b = random_tensor({s.n, s.k}, DType::f32, 7);
      Tensor c({s.m, s.n});
      bound_gemm_nt(s.m, s.n, s.k, a.as<float>(), s.k, b.as<float>(), s.k, c.as<float>(), s.n);
      for (int64_t i = 0; i < s.m; ++i) {
        for (int64_t j = 0; j < s.n; ++j) {
          double exact = 0, left = 0, right = 0;
          for (int64_t p = 0; p < s.k; ++p) {
            const double x = a.as<float>()[i * s.k + p], y = b.as<float>()[j * s.k + p];
            exact += x * y;
            left += x * x;
            right += y * y;
          }
          ASSERT_LE(std::abs(c.as<float>()[i * s.n + j] - exact), rounding_of(s.k) * std::sqrt(left * right));
        }
      }
    }
  }
  set_cpu_level(available_cpu_levels().back());
}

TEST(AtLeastTest, MarksTheLargeValuesOfAnyLengthAtEveryLevel) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  std::vector<float> x(64);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>((i * 37) % 64) - 30;
  x[5] = nan, x[40] = infinity, x[41] = -infinity;
  for (const CpuLevel level : available_cpu_levels()) {
    set_cpu_level(level);
    for (int64_t n = 0; n <= 64; ++n) {
      for (const float limit : {-infinity, -3.0f, 12.5f, infinity}) {
        uint64_t expected = 0;
        for (int64_t i = 0; i < n; ++i)
          if (x[static_cast<size_t>(i)] >= limit) expected |= uint64_t{1} << i;
        ASSERT_EQ(at_least(x.data(), n, limit), expected) << n << " " << limit << cpu_level_name(level);
      }
    }
  }
  set_cpu_level(available_cpu_levels().back());
}

}  // namespace
}  // namespace dino::exact
