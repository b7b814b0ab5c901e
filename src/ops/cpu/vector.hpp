// SPDX-License-Identifier: Apache-2.0
#pragma once
// One float vector as wide as the instruction set of the including file allows (16, 8 or 4 lanes), on GCC's
// vector extensions, so that every kernel is written once. Everything here has internal linkage: the same
// names mean other code in kernels_baseline.cpp, kernels_avx2.cpp and kernels_avx512.cpp.

// The zero-masked forms of some AVX-512 intrinsics, with a full mask, are the plain instructions: they avoid
// GCC 12's false alarm about the undefined vector inside the plain forms.
#include <immintrin.h>

#include <cstdint>
#include <utility>

#include "base/half.hpp"

namespace dino::ops {
namespace {

#if defined(__AVX512BW__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using Floats [[gnu::vector_size(4 * kLanes)]] = float;
using Ints [[gnu::vector_size(4 * kLanes)]] = int32_t;
using Words [[gnu::vector_size(4 * kLanes)]] = uint32_t;
using Halves [[gnu::vector_size(2 * kLanes)]] = uint16_t;

/// Half as many doubles in as many bytes.
constexpr int kWide = kLanes / 2;
using Doubles [[gnu::vector_size(8 * kWide)]] = double;

#define DINO_INLINE [[gnu::always_inline]] inline

DINO_INLINE Floats splat(float x) {
  return x - Floats{};  // x - 0 is x for every x, so this compiles to the broadcast alone
}

DINO_INLINE Floats load(const float* p) {
  Floats v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

DINO_INLINE void store(float* p, Floats v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// By intrinsics: GCC 12 puts these conversions together from halves.
DINO_INLINE Words widened(Halves h) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Words>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(h)));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(h)));
#else
  return __builtin_convertvector(h, Words);
#endif
}

/// Of words below 2^16.
DINO_INLINE Halves narrowed(Words w) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Halves>(_mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(w)));
#elif defined(__AVX2__)
  const auto v = reinterpret_cast<__m256i>(w);
  return reinterpret_cast<Halves>(
      _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(v, v), 0b1000)));
#else
  return __builtin_convertvector(w, Halves);
#endif
}

DINO_INLINE Floats load(const bf16* p) {
  Halves h;
  __builtin_memcpy(&h, p, sizeof h);
  return reinterpret_cast<Floats>(widened(h) << 16);
}

/// Rounds to nearest even, as bf16(float) does; the instruction flushes denormals to zero.
DINO_INLINE void store(bf16* p, Floats v) {
#if defined(__AVX512BF16__)
  const __m256bh h = _mm512_maskz_cvtneps_pbh(0xffff, v);
#else
  const Words u = reinterpret_cast<Words>(v);
  const Words rounded = u + 0x7fffu + ((u >> 16) & 1u);
  const Words nan = u | 0x400000u;
  const Halves h = narrowed((v != v ? nan : rounded) >> 16);
#endif
  __builtin_memcpy(static_cast<void*>(p), &h, sizeof h);
}

/// As half_to_float() does.
DINO_INLINE Floats load(const f16* p) {
  Halves h;
  __builtin_memcpy(&h, p, sizeof h);
#if defined(__AVX512BW__)
  return _mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(h));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(reinterpret_cast<__m128i>(h));
#else
  const Words u = __builtin_convertvector(h, Words);
  const Words m = u & 0x7fffu;
  // A subnormal is its mantissa times 2^-24, infinity and NaN keep the highest exponent.
  const Words small =
      reinterpret_cast<Words>(__builtin_convertvector(reinterpret_cast<Ints>(m), Floats) * 0x1p-24f);
  const Words other = (m << 13) + (m >= 0x7c00u ? Words{} + 0x70000000u : Words{} + 0x38000000u);
  return reinterpret_cast<Floats>((m < 0x400u ? small : other) | ((u & 0x8000u) << 16));
#endif
}

/// As float_to_half() does.
DINO_INLINE void store(f16* p, Floats v) {
#if defined(__AVX512BW__)
  const __m256i h = _mm512_maskz_cvtps_ph(0xffff, v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  const __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const Words u = reinterpret_cast<Words>(v);
  const Words m = u & 0x7fffffffu;
  // See half.cpp: below 2^-14 an addition rounds.
  const Words small = reinterpret_cast<Words>(reinterpret_cast<Floats>(m) + 0.5f) - 0x3f000000u;
  const Words normal = (m - 0x38000000u + 0xfffu + ((m >> 13) & 1u)) >> 13;
  const Words finite = m < 0x38800000u ? small : normal;
  const Words large = m > 0x7f800000u ? ((u >> 13) & 0x1ffu) | 0x7e00u : Words{} + 0x7c00u;
  const Halves h =
      __builtin_convertvector((m >= 0x477ff000u ? large : finite) | ((u >> 16) & 0x8000u), Halves);
#endif
  __builtin_memcpy(static_cast<void*>(p), &h, sizeof h);
}

/// The first n < kLanes elements; the rest is zero.
template <class T>
DINO_INLINE Floats load_part(const T* p, int64_t n) {
  Floats v{};
  for (int64_t i = 0; i < n; ++i) v[i] = static_cast<float>(p[i]);
  return v;
}

template <class T>
DINO_INLINE void store_part(T* p, Floats v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = T(v[i]);
}

// By intrinsics: GCC 12 puts the conversions together from scalars or halves.
DINO_INLINE Doubles load_wide(const float* p) {
#if defined(__AVX512BW__)
  return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p));
#elif defined(__AVX2__)
  return _mm256_cvtps_pd(_mm_loadu_ps(p));
#else
  double pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm_cvtps_pd(_mm_castpd_ps(_mm_set_sd(pair)));
#endif
}

DINO_INLINE void store_wide(float* p, Doubles v) {
#if defined(__AVX512BW__)
  _mm256_storeu_ps(p, _mm512_maskz_cvtpd_ps(0xff, v));
#elif defined(__AVX2__)
  _mm_storeu_ps(p, _mm256_cvtpd_ps(v));
#else
  const __m128 pair = _mm_cvtpd_ps(v);
  __builtin_memcpy(p, &pair, 2 * sizeof(float));
#endif
}

/// a b + c, fused where the instruction set fuses.
DINO_INLINE Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512BW__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

/// The larger of each lane; b where either is NaN.
DINO_INLINE Floats larger(Floats a, Floats b) {
#if defined(__AVX512BW__)
  return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return _mm_max_ps(a, b);
#endif
}

/// Bit i is set where a[i] >= b[i].
DINO_INLINE uint64_t mask_at_least(Floats a, Floats b) {
#if defined(__AVX512BW__)
  return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
#elif defined(__AVX2__)
  return static_cast<uint64_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
#else
  return static_cast<uint64_t>(_mm_movemask_ps(_mm_cmpge_ps(a, b)));
#endif
}

DINO_INLINE Floats square_root(Floats x) {
#if defined(__AVX512BW__)
  return _mm512_maskz_sqrt_ps(0xffff, x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  return _mm_sqrt_ps(x);
#endif
}

/// Nearest integer.
DINO_INLINE Ints nearest(Floats x) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Ints>(_mm512_maskz_cvtps_epi32(0xffff, x));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(_mm256_cvtps_epi32(x));
#else
  return reinterpret_cast<Ints>(_mm_cvtps_epi32(x));
#endif
}

DINO_INLINE Floats magnitude(Floats x) {
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(x) & 0x7fffffffu);
}

/// Lane i gets lane i xor H.
template <int H, int... Lane>
DINO_INLINE Floats swapped(Floats v, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(v, v, (Lane ^ H)...);
}

/// Sum of the lanes, pairwise.
template <int H = kLanes / 2>
DINO_INLINE float sum(Floats v) {
  if constexpr (H == 0)
    return v[0];
  else
    return sum<H / 2>(v + swapped<H>(v, std::make_integer_sequence<int, kLanes>{}));
}

template <int H = kLanes / 2>
DINO_INLINE float largest(Floats v) {
  if constexpr (H == 0)
    return v[0];
  else
    return largest<H / 2>(larger(v, swapped<H>(v, std::make_integer_sequence<int, kLanes>{})));
}

/// One of the exchanges of a transpose: of 2 x 2 blocks of H lanes, the two off the diagonal change places.
template <int H, int... Lane>
DINO_INLINE void exchange(Floats& a, Floats& b, std::integer_sequence<int, Lane...>) {
  const Floats upper = __builtin_shufflevector(a, b, ((Lane & H) == 0 ? Lane : kLanes + Lane - H)...);
  b = __builtin_shufflevector(a, b, ((Lane & H) == 0 ? Lane + H : kLanes + Lane)...);
  a = upper;
}

/// Transposes kLanes x kLanes numbers in registers.
template <int H = kLanes / 2>
DINO_INLINE void transpose_block(Floats (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i)
    if ((i & H) == 0) exchange<H>(rows[i], rows[i + H], std::make_integer_sequence<int, kLanes>{});
  if constexpr (H > 1) transpose_block<H / 2>(rows);
}

// ---- elementary functions. Polynomials: minimax fits (Lawson-weighted least squares) of our own.

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

/// 2^x for x <= 0, relative error 1.2e-7; 0 below -127 (so -inf gives exactly 0).
DINO_INLINE Floats exp2_of_negative(Floats x) {
  const Floats clamped = larger(splat(-127.0f), x);
  const Ints n = nearest(clamped);
  const Floats r = clamped - __builtin_convertvector(n, Floats);
  Floats p = splat(1.534580806037411e-4f);
  p = fma(p, r, splat(1.3399930903688073e-3f));
  p = fma(p, r, splat(9.618489071726799e-3f));
  p = fma(p, r, splat(5.550328642129898e-2f));
  p = fma(p, r, splat(0.24022646248340607f));
  p = fma(p, r, splat(0.6931471824645996f));
  p = fma(p, r, splat(1.0f));
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(p) + (reinterpret_cast<Words>(n) << 23));
}

/// exp(x), relative error about 2e-7; 0 below -87.3.
DINO_INLINE Floats exp_of(Floats x) {
  const Floats low = splat(-87.33f);
  const Floats clamped = x < low ? low : x;
  const Floats bounded = clamped > 88.0f ? splat(88.0f) : clamped;
  const Ints n = nearest(bounded * kLog2E);
  const Floats m = __builtin_convertvector(n, Floats);
  // ln 2 in two parts, so that r is exact to rounding
  const Floats r = fma(m, splat(2.12194440e-4f), fma(m, splat(-0.693359375f), clamped));
  Floats p = splat(1.0f / 5040);
  p = fma(p, r, splat(1.0f / 720));
  p = fma(p, r, splat(1.0f / 120));
  p = fma(p, r, splat(1.0f / 24));
  p = fma(p, r, splat(1.0f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  const Floats scaled =
      reinterpret_cast<Floats>(reinterpret_cast<Words>(p) + (reinterpret_cast<Words>(n) << 23));
  const Floats finite = x < low ? splat(0.0f) : scaled;
  return x > 88.7228f ? splat(__builtin_inff()) : finite;
}

/// log(x) for finite x > 0, relative error about 2e-7; of a denormal, that of some number below 2^-126.
DINO_INLINE Floats log_of(Floats x) {
  constexpr uint32_t kRootHalf = 0x3f3504f3u;  // sqrt(1/2)
  const Words above = reinterpret_cast<Words>(x) - kRootHalf;
  // x = 2^e m with m in [sqrt(1/2), sqrt(2)); log m = 2 artanh(s), |s| < 0.172
  const Floats e = __builtin_convertvector(reinterpret_cast<Ints>(above) >> 23, Floats);
  const Floats m = reinterpret_cast<Floats>((above & 0x007fffffu) + kRootHalf);
  const Floats s = (m - 1.0f) / (m + 1.0f);
  const Floats q = s * s;
  Floats p = splat(2.0f / 9);
  p = fma(p, q, splat(2.0f / 7));
  p = fma(p, q, splat(2.0f / 5));
  p = fma(p, q, splat(2.0f / 3));
  p = fma(p, q, splat(2.0f));
  return fma(e, splat(0.693359375f), fma(e, splat(-2.12194440e-4f), s * p));
}

/// The normal distribution at x: `below` = Phi(x) = (1 + erf(x/sqrt 2)) / 2 and `density` = phi(x).
struct Normal {
  Floats below;
  Floats density;
};

/// Phi(-t) = exp(-t^2/2) s R(s), s = 1/(1 + 0.35 t): accurate relative to Phi also in the lower tail.
DINO_INLINE Normal normal_of(Floats x) {
  const Floats t = magnitude(x);
  const Floats s = 1.0f / fma(splat(0.35f), t, splat(1.0f));
  Floats r = splat(-0.02977205440402031f);
  r = fma(r, s, splat(0.14694713056087494f));
  r = fma(r, s, splat(-0.2616783380508423f));
  r = fma(r, s, splat(0.1657264232635498f));
  r = fma(r, s, splat(-0.027398675680160522f));
  r = fma(r, s, splat(0.10720832645893097f));
  r = fma(r, s, splat(0.11943741142749786f));
  r = fma(r, s, splat(0.13991080224514008f));
  r = fma(r, s, splat(0.13961894810199738f));
  const Floats e = exp2_of_negative((-0.5f * kLog2E) * t * t);
  const Floats tail = e * s * r;
  return {x > 0.0f ? 1.0f - tail : tail, e * 0.3989422804014327f};
}

/// 1 / (1 + exp(-x))
DINO_INLINE Floats sigmoid_of(Floats x) {
  return 1.0f / (1.0f + exp_of(-x));
}

}  // namespace
}  // namespace dino::ops
