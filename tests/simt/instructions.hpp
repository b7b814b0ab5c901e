// SPDX-License-Identifier: Apache-2.0
#pragma once
// The twins of ops/cuda/instructions.hpp, where the fragments are drawn.

#include <bit>
#include <cmath>
#include <cstdint>
#include <source_location>

#include "base/half.hpp"
#include "simt/executor.hpp"

namespace dino::cuda {

inline float float_of_bits(uint32_t bits) {
  return std::bit_cast<float>(bits);
}
inline uint32_t bits_of_float(float x) {
  return std::bit_cast<uint32_t>(x);
}
inline float float_of_half(uint16_t bits) {
  return half_to_float(bits);
}
inline uint16_t half_of_float(float x) {
  return float_to_half(x);
}
inline uint16_t bfloat_of_float(float x) {
  return bf16(x).bits;
}
template <class T>
uint32_t pack_pair(float low, float high) {
  return uint32_t{T(low).bits} | uint32_t{T(high).bits} << 16;
}
/// Numbers that are too small to be normal are 0 to this instruction, before and after.
inline float exp2_fast(float x) {
  if (x < -126.0f) return 0.0f;
  return std::exp2(x);
}

template <class T>
void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                 std::source_location at = std::source_location::current()) {
  constexpr bool kBfloat = std::is_same_v<T, bf16>;
  static_assert(kBfloat || std::is_same_v<T, f16>);
  const simt::Fragments fragments{d, a, b};
  if (kBfloat)
    simt::multiply_bf16(fragments, at);
  else
    simt::multiply_f16(fragments, at);
}

inline void load_matrices(uint32_t (&words)[4], const void* shared_row,
                          std::source_location at = std::source_location::current()) {
  simt::load_matrices({words, shared_row}, false, at);
}
inline void load_matrices_transposed(uint32_t (&words)[4], const void* shared_row,
                                     std::source_location at = std::source_location::current()) {
  simt::load_matrices({words, shared_row}, true, at);
}

inline void copy_16_async(void* shared_to, const void* global_from, bool valid = true,
                          std::source_location at = std::source_location::current()) {
  simt::copy_async(shared_to, valid ? global_from : nullptr, 16, at);
}
inline void copy_commit() {
  simt::copy_commit();
}
template <int kLatest>
void copy_wait() {
  static_assert(kLatest >= 0);
  simt::copy_wait(kLatest);
}

}  // namespace dino::cuda
