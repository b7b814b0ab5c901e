// SPDX-License-Identifier: Apache-2.0
#pragma once
// Small matrix products in registers, for attention and for ordered_gemm. Internal linkage: see vector.hpp.

#include <cmath>

#include "ops/cpu/kernels.hpp"
#include "ops/cpu/vector.hpp"

namespace dino::ops {
namespace {

/// Not std::min: an out-of-line copy of a standard template, compiled for AVX-512, could be the one that the
/// linker keeps for everybody.
DINO_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Register tile: kTileRows x kTileVectors accumulators, plus the vectors of B and one broadcast of A.
#if defined(__AVX512BW__)
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2;
#else
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
#endif
constexpr int kTileColumns = kTileVectors * kLanes;

/// A[m,k] with any two strides (so that a transposed operand needs no copy), in elements.
template <class E>
struct Strided {
  const E* data;
  int64_t row, column;
};

/// Two bf16 numbers that follow each other along k: one element of a product that multiplies both.
struct [[gnu::may_alias]] Pair {
  uint32_t bits;
};

DINO_INLINE Words load(const Pair* p) {
  Words v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

DINO_INLINE Words load_part(const Pair* p, int64_t n) {
  Words v{};
  for (int64_t i = 0; i < n; ++i) v[i] = p[i].bits;
  return v;
}

DINO_INLINE void store(Pair* p, Words v) {
  __builtin_memcpy(static_cast<void*>(p), &v, sizeof v);
}

#if defined(__AVX512BF16__)
DINO_INLINE Words splat(Pair p) {
  return p.bits + Words{};
}

/// a b + c over both halves of the pairs, in f32.
DINO_INLINE Floats fma(Words a, Words b, Floats c) {
  return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
#endif

/// C[R, V vectors] = or += A[R,k] B[k, V vectors]; one chain per element, k ascending. Elements are floats or
/// pairs.
template <int R, int V, class E>
void tile(int64_t k, Strided<E> a, const E* b, int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  Floats sums[R][V];
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < V; ++j) sums[i][j] = accumulate ? load(c + i * ldc + j * kLanes) : Floats{};
  for (int64_t p = 0; p < k; ++p) {
    decltype(load(b)) row[V];
    for (int j = 0; j < V; ++j) row[j] = load(b + j * kLanes);
    for (int i = 0; i < R; ++i) {
      const auto x = splat(a.data[i * a.row]);
      for (int j = 0; j < V; ++j) sums[i][j] = fma(x, row[j], sums[i][j]);
    }
    a.data += a.column;
    b += ldb;
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < V; ++j) store(c + i * ldc + j * kLanes, sums[i][j]);
}

template <int V, int R = kTileRows, class E>
void tile_of_rows(int64_t rows, int64_t k, Strided<E> a, const E* b, int64_t ldb, float* c, int64_t ldc,
                  bool accumulate) {
  if constexpr (R > 0) {
    if (rows == R)
      tile<R, V, E>(k, a, b, ldb, c, ldc, accumulate);
    else
      tile_of_rows<V, R - 1, E>(rows, k, a, b, ldb, c, ldc, accumulate);
  }
}

template <int V, class E>
void column_of_tiles(int64_t m, int64_t k, Strided<E> a, const E* b, int64_t ldb, float* c, int64_t ldc,
                     bool accumulate) {
  for (int64_t i = 0; i < m; i += kTileRows)
    tile_of_rows<V, kTileRows, E>(smaller(kTileRows, m - i), k, {a.data + i * a.row, a.row, a.column}, b, ldb,
                                  c + i * ldc, ldc, accumulate);
}

/// C[m,n] = or += A[m,k] B[k,n]; n is a multiple of kLanes.
template <class E>
inline void small_gemm(int64_t m, int64_t n, int64_t k, Strided<E> a, const E* b, int64_t ldb, float* c,
                       int64_t ldc, bool accumulate) {
  int64_t j = 0;
  for (; j + kTileColumns <= n; j += kTileColumns)
    column_of_tiles<kTileVectors, E>(m, k, a, b + j, ldb, c + j, ldc, accumulate);
  switch ((n - j) / kLanes) {
    case 3:
      if constexpr (kTileVectors > 3) column_of_tiles<3, E>(m, k, a, b + j, ldb, c + j, ldc, accumulate);
      break;
    case 2:
      if constexpr (kTileVectors > 2) column_of_tiles<2, E>(m, k, a, b + j, ldb, c + j, ldc, accumulate);
      break;
    case 1:
      column_of_tiles<1, E>(m, k, a, b + j, ldb, c + j, ldc, accumulate);
      break;
    default:
      break;
  }
}

DINO_INLINE Floats same_bits(Floats v) {
  return v;
}
DINO_INLINE Floats same_bits(Words v) {
  return reinterpret_cast<Floats>(v);
}

/// to[c * ld + r] = from[r * stride + c] for c < columns; r runs on to the next multiple of kLanes, as zeros.
template <class T>
inline void transpose(int64_t rows, int64_t columns, const T* from, int64_t stride, float* to, int64_t ld) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t width = smaller(kLanes, columns - c);
      Floats block[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        const T* row = from + (r + i) * stride + c;
        block[i] = r + i >= rows     ? Floats{}
                   : width == kLanes ? same_bits(load(row))
                                     : same_bits(load_part(row, width));
      }
      transpose_block(block);
      for (int64_t i = 0; i < width; ++i) store(to + (c + i) * ld + r, block[i]);
    }
  }
}

/// One instruction per step where there is one; else libm's fmaf, which rounds the same way.
inline float ordered_chain(const float* a, const float* b, int64_t k) {
  float chain = 0;
  for (int64_t p = 0; p < k; ++p) chain = std::fma(a[p], b[p], chain);
  return chain;
}

inline void clear(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = 0.0f;
}

inline void copy_block(int64_t rows, int64_t columns, const float* from, int64_t from_stride, float* to,
                       int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < columns; ++i) to[r * to_stride + i] = from[r * from_stride + i];
}

/// C[m,n] = A[m,k] B[n,k]^T. C in blocks of k: an element's chain continues from the value stored by the
/// block before, so blocking does not change it. B is packed, one panel of kTileColumns rows of `b` at a
/// time.
inline void gemm_nt_kernel(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                           int64_t ldb, float* c, int64_t ldc) {
  constexpr int64_t kBlockK = 256;
  alignas(64) float panel[kBlockK * kTileColumns];
  alignas(64) float edge[kTileRows * kTileColumns];
  for (int64_t j = 0; j < n; j += kTileColumns) {
    const int64_t columns = smaller(kTileColumns, n - j);
    for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += kBlockK) {
      const int64_t depth = smaller(kBlockK, k - k0);
      if (columns < kTileColumns) clear(panel, depth * kTileColumns);
      transpose(columns, depth, b + j * ldb + k0, ldb, panel, kTileColumns);
      for (int64_t i = 0; i < m; i += kTileRows) {
        const int64_t rows = smaller(kTileRows, m - i);
        const Strided<float> left{a + i * lda + k0, lda, 1};
        if (columns == kTileColumns) {
          tile_of_rows<kTileVectors>(rows, depth, left, panel, kTileColumns, c + i * ldc + j, ldc, k0 > 0);
          continue;
        }
        if (k0 > 0) copy_block(rows, columns, c + i * ldc + j, ldc, edge, kTileColumns);
        tile_of_rows<kTileVectors>(rows, depth, left, panel, kTileColumns, edge, kTileColumns, k0 > 0);
        copy_block(rows, columns, edge, kTileColumns, c + i * ldc + j, ldc);
      }
    }
  }
}
#if defined(__AVX2__)
inline void ordered_gemm_kernel(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                                int64_t ldb, float* c, int64_t ldc) {
  gemm_nt_kernel(m, n, k, a, lda, b, ldb, c, ldc);
}
#else
inline void ordered_gemm_kernel(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                                int64_t ldb, float* c, int64_t ldc) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = ordered_chain(a + i * lda, b + j * ldb, k);
}
#endif

}  // namespace
}  // namespace dino::ops
