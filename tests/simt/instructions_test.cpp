// SPDX-License-Identifier: Apache-2.0
// The instructions' twins against plain arithmetic, with fragments as the PTX manual draws them.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "base/random.hpp"
#include "simt/planted.hpp"

namespace dino::simt {
namespace {

template <size_t kRows, size_t kColumns>
using Matrix = std::array<std::array<float, kColumns>, kRows>;

template <class T, size_t kRows, size_t kColumns>
Matrix<kRows, kColumns> random_matrix(Random& random) {
  Matrix<kRows, kColumns> matrix;
  for (auto& row : matrix)
    for (float& x : row) x = static_cast<float>(T(static_cast<float>(random.normal())));
  return matrix;
}

/// The largest error of d = a b + c, whose fragments are taken from the manual's formulas of an element's row
/// and column (which ops/cuda/instructions.hpp restates): a's and b's registers hold two elements, numbered
/// i = 0..7 and 0..3. `exchanged` swaps two registers of a.
template <class T>
double product_error(bool exchanged) {
  Random random(7, RandomStream::test, 0);
  const auto a = random_matrix<T, 16, 16>(random);
  const auto b = random_matrix<T, 16, 8>(random);
  const auto c = random_matrix<T, 16, 8>(random);
  Matrix<16, 8> d{};
  run_kernel("product", {1}, {32}, 0, [&] {
    const unsigned lane = threadIdx.x, group = lane >> 2, in_group = lane % 4;
    const auto element_a = [&](unsigned i) {
      const unsigned row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
      const unsigned column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      return a[row][column];
    };
    const auto element_b = [&](unsigned i) { return b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group]; };
    const auto row_of_c = [&](unsigned i) { return i < 2 ? group : group + 8; };
    const auto column_of_c = [&](unsigned i) { return in_group * 2 + (i & 1); };
    uint32_t words_a[4], words_b[2];
    float sums[4];
    for (unsigned i = 0; i < 4; ++i) words_a[i] = cuda::pack_pair<T>(element_a(2 * i), element_a(2 * i + 1));
    for (unsigned i = 0; i < 2; ++i) words_b[i] = cuda::pack_pair<T>(element_b(2 * i), element_b(2 * i + 1));
    for (unsigned i = 0; i < 4; ++i) sums[i] = c[row_of_c(i)][column_of_c(i)];
    if (exchanged) std::swap(words_a[1], words_a[2]);
    cuda::mma_16x8x16<T>(sums, words_a, words_b);
    for (unsigned i = 0; i < 4; ++i) d[row_of_c(i)][column_of_c(i)] = sums[i];
  });
  double error = 0;
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < 8; ++j) {
      double expected = c[i][j];
      for (size_t k = 0; k < 16; ++k) expected += double{a[i][k]} * b[k][j];
      error = std::max(error, std::abs(expected - d[i][j]));
    }
  return error;
}

TEST(Instructions, ProductsOfFragments) {
  EXPECT_LT(product_error<bf16>(false), 1e-5);
  EXPECT_LT(product_error<f16>(false), 1e-5);
  EXPECT_GT(product_error<bf16>(true), 0.1);
}

struct alignas(16) Tiles {
  uint16_t at[4][8][8];
};

template <bool kTransposed>
void expect_matrices() {
  run_kernel("matrices", {1}, {32}, 0, [] {
    Tiles& tiles = cuda::block_shared<Tiles>();
    const unsigned lane = threadIdx.x;
    for (unsigned k = 0; k < 8; ++k)
      tiles.at[lane / 8][lane % 8][k] = static_cast<uint16_t>(100 * (lane / 8) + 10 * (lane % 8) + k);
    __syncwarp();
    uint32_t words[4];
    if (kTransposed)
      cuda::load_matrices_transposed(words, tiles.at[lane / 8][lane % 8]);
    else
      cuda::load_matrices(words, tiles.at[lane / 8][lane % 8]);
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = lane / 4, column = 2 * (lane % 4);
      const unsigned low = kTransposed ? 10 * column + row : 10 * row + column;
      const unsigned high = kTransposed ? 10 * (column + 1) + row : 10 * row + column + 1;
      EXPECT_EQ(words[i], (100 * i + low) | (100 * i + high) << 16);
    }
  });
}

TEST(Instructions, MatricesFromSharedMemory) {
  expect_matrices<false>();
  expect_matrices<true>();
  if (!kWatched) return;
  const std::string error = error_in([] {
    run_kernel("unordered", {1}, {32}, 0, [] {
      Tiles& tiles = cuda::block_shared<Tiles>();
      for (unsigned k = 0; k < 8; ++k) tiles.at[threadIdx.x / 8][threadIdx.x % 8][k] = 0;
      uint32_t words[4];
      cuda::load_matrices(words, tiles.at[3 - threadIdx.x / 8][threadIdx.x % 8]);
    });
  });
  EXPECT_TRUE(has(error, {"kernel unordered", "reads 16 bytes of shared memory", "written"}));
}

struct alignas(16) Chunks {
  float at[3][4];
};

TEST(Instructions, AsynchronousCopiesArriveAsLateAsTheyMay) {
  alignas(16) float source[3][4];
  for (int i = 0; i < 12; ++i) source[i / 4][i % 4] = static_cast<float>(i);
  run_kernel("copies", {1}, {1}, 0, [&] {
    Chunks& chunks = cuda::block_shared<Chunks>();
    for (int i = 0; i < 3; ++i) {
      cuda::copy_16_async(chunks.at[i], source[i], i != 1);
      cuda::copy_commit();
    }
    cuda::copy_wait<1>();
    EXPECT_EQ(chunks.at[0][3], 3.0f);
    EXPECT_EQ(chunks.at[1][3], 0.0f);
    source[2][3] = -1;  // is read when it is waited for
    cuda::copy_wait<0>();
    EXPECT_EQ(chunks.at[2][3], -1.0f);
  });
  const std::string error = error_in([&] {
    run_kernel("misaligned", {1}, {1}, 0,
               [&] { cuda::copy_16_async(cuda::block_shared<Chunks>().at[0], &source[0][1]); });
  });
  EXPECT_TRUE(has(error, {"kernel misaligned", "no multiples of 16"}));
}

TEST(Instructions, Numbers) {
  EXPECT_EQ(cuda::half_of_float(65504.0f), 0x7bff);
  EXPECT_EQ(cuda::float_of_half(0x3c00), 1.0f);
  EXPECT_EQ(cuda::bfloat_of_float(1.00390625f), 0x3f80);  // half way: to even
  EXPECT_EQ(cuda::pack_pair<bf16>(1.0f, -2.0f), 0xc0003f80u);
  EXPECT_EQ(cuda::exp2_fast(-3.0f), 0.125f);
  EXPECT_EQ(cuda::exp2_fast(-130.0f), 0.0f);
  EXPECT_EQ(cuda::exp2_fast(-INFINITY), 0.0f);
}

}  // namespace
}  // namespace dino::simt
