// SPDX-License-Identifier: Apache-2.0
#pragma once
// The keywords of kernels (ops/cuda/device_code.hpp) for kernels that are compiled as C++ and run by the
// executor: see executor.hpp for how.

#include <math.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "simt/executor.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// NOLINTBEGIN(bugprone-reserved-identifier): the names are the language's

// ---- where the thread is

inline dino::simt::Index& threadIdx = dino::simt::places.thread;
inline dino::simt::Index& blockIdx = dino::simt::places.block;
inline dino::simt::Index& blockDim = dino::simt::places.block_size;
inline dino::simt::Index& gridDim = dino::simt::places.grid_size;
constexpr int warpSize = 32;

// ---- barriers

inline void __syncthreads(std::source_location at = std::source_location::current()) {
  dino::simt::barrier(0, at);
}
inline int __syncthreads_count(int predicate, std::source_location at = std::source_location::current()) {
  return static_cast<int>(dino::simt::barrier(predicate != 0 ? 1u : 0u, at));
}
inline int __syncthreads_or(int predicate, std::source_location at = std::source_location::current()) {
  return __syncthreads_count(predicate, at) > 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, std::source_location at = std::source_location::current()) {
  return __syncthreads_count(predicate == 0 ? 1 : 0, at) == 0 ? 1 : 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       std::source_location at = std::source_location::current()) {
  dino::simt::warp_barrier(mask, at);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- between the lanes of a warp

namespace dino::simt {

template <class T>
T shuffled(unsigned mask, T x, Shuffle how, int lane, int width, std::source_location at) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "a number of 32 or 64 bits");
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof(T));
  bits = shuffle(mask, bits, how, lane, width, at);
  std::memcpy(&x, &bits, sizeof(T));
  return x;
}

}  // namespace dino::simt

template <class T>
T __shfl_sync(unsigned mask, T x, int lane, int width = 32,
              std::source_location at = std::source_location::current()) {
  return dino::simt::shuffled(mask, x, dino::simt::Shuffle::from, lane, width, at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int lane, int width = 32,
                  std::source_location at = std::source_location::current()) {
  return dino::simt::shuffled(mask, x, dino::simt::Shuffle::exchange, lane, width, at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned delta, int width = 32,
                 std::source_location at = std::source_location::current()) {
  return dino::simt::shuffled(mask, x, dino::simt::Shuffle::up, static_cast<int>(delta), width, at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned delta, int width = 32,
                   std::source_location at = std::source_location::current()) {
  return dino::simt::shuffled(mask, x, dino::simt::Shuffle::down, static_cast<int>(delta), width, at);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location at = std::source_location::current()) {
  return dino::simt::ballot(mask, predicate != 0, at);
}
inline int __any_sync(unsigned mask, int predicate,
                      std::source_location at = std::source_location::current()) {
  return dino::simt::ballot(mask, predicate != 0, at) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      std::source_location at = std::source_location::current()) {
  return dino::simt::ballot(mask, predicate != 0, at) == mask ? 1 : 0;
}

// ---- atomics: threads change places in barriers and warp operations alone

namespace dino::simt {

/// *at <- change(*at); what was there before. The accesses are not watched as those of plain code.
template <class T, class Change>
__attribute__((noinline, no_sanitize("thread"))) T atomically(T* at, const Change& change,
                                                              const std::source_location& location) {
  static_assert(std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "an integer of 32 or 64 bits");
  touch_atomically(at, sizeof(T), location);
  const T before = *at;
  *at = change(before);
  return before;
}

}  // namespace dino::simt

template <class T>
T atomicAdd(T* at, std::type_identity_t<T> x,
            std::source_location location = std::source_location::current()) {
  return dino::simt::atomically(
      at, [x](T before) { return static_cast<T>(before + x); }, location);
}
template <class T>
T atomicMax(T* at, std::type_identity_t<T> x,
            std::source_location location = std::source_location::current()) {
  return dino::simt::atomically(
      at, [x](T before) { return x > before ? x : before; }, location);
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> x,
            std::source_location location = std::source_location::current()) {
  return dino::simt::atomically(
      at, [x](T before) { return x < before ? x : before; }, location);
}
template <class T>
T atomicExch(T* at, std::type_identity_t<T> x,
             std::source_location location = std::source_location::current()) {
  return dino::simt::atomically(
      at, [x](T) { return x; }, location);
}
template <class T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> x,
            std::source_location location = std::source_location::current()) {
  return dino::simt::atomically(
      at, [=](T before) { return before == expected ? x : before; }, location);
}
template <class T>
T atomicOr(T* at, std::type_identity_t<T> x,
           std::source_location location = std::source_location::current()) {
  return dino::simt::atomically(
      at, [x](T before) { return static_cast<T>(before | x); }, location);
}

// ---- numbers

inline int min(int a, int b) {
  return b < a ? b : a;
}
inline int max(int a, int b) {
  return a < b ? b : a;
}
inline unsigned min(unsigned a, unsigned b) {
  return b < a ? b : a;
}
inline unsigned max(unsigned a, unsigned b) {
  return a < b ? b : a;
}
inline long min(long a, long b) {
  return b < a ? b : a;
}
inline long max(long a, long b) {
  return a < b ? b : a;
}
inline unsigned long min(unsigned long a, unsigned long b) {
  return b < a ? b : a;
}
inline unsigned long max(unsigned long a, unsigned long b) {
  return a < b ? b : a;
}
inline float min(float a, float b) {
  return fminf(a, b);
}
inline float max(float a, float b) {
  return fmaxf(a, b);
}
inline double min(double a, double b) {
  return fmin(a, b);
}
inline double max(double a, double b) {
  return fmax(a, b);
}

inline float rsqrtf(float x) {
  return 1.0f / sqrtf(x);
}
inline double rsqrt(double x) {
  return 1.0 / sqrt(x);
}
// The C library declares these names for itself, with these types.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __frcp_rn(float x) {
  return 1.0f / x;
}
inline float __fsqrt_rn(float x) {
  return sqrtf(x);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fmaf_rn(float a, float b, float c) {
  return fmaf(a, b, c);
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline float __int_as_float(int bits) {
  return std::bit_cast<float>(bits);
}
inline int __float_as_int(float x) {
  return std::bit_cast<int>(x);
}
inline double __longlong_as_double(long long bits) {
  return std::bit_cast<double>(bits);
}
inline long long __double_as_longlong(double x) {
  return std::bit_cast<long long>(x);
}
inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __popcll(unsigned long long x) {
  return std::popcount(x);
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<unsigned>(x));
}
inline int __ffs(int x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1;
}
template <class T>
T __ldg(const T* at) {
  return *at;
}

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline double2 make_double2(double x, double y) {
  return {x, y};
}
inline int2 make_int2(int x, int y) {
  return {x, y};
}
inline int4 make_int4(int x, int y, int z, int w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

// NOLINTEND(bugprone-reserved-identifier)

namespace dino::cuda {

template <class T>
T& block_shared() {
  static simt::SharedPlace place{sizeof(T), alignof(T)};
  return *static_cast<T*>(simt::shared_place(place));
}
template <class T>
T* dynamic_shared() {
  return static_cast<T*>(simt::dynamic_shared_memory());
}

}  // namespace dino::cuda
