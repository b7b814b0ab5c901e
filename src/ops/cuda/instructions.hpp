// SPDX-License-Identifier: Apache-2.0
#pragma once
// Single instructions of the GPU that C++ has no word for, sm_80 and later; the executor's twins stand in
// tests/simt/instructions.hpp. Fragment layouts are those of the PTX manual ("Matrix Fragments for
// mma.m16n8k16", "ldmatrix"): with lane = 4 g + t (g = 0..7, t = 0..3),
//   A [16 x 16], four words: a[0] = row g, columns 2t, 2t+1; a[1] = row g+8, same columns; a[2] = row g,
//     columns 2t+8, 2t+9; a[3] = row g+8, columns 2t+8, 2t+9;
//   B [16 x 8], two words: b[0] = rows 2t, 2t+1 of column g; b[1] = rows 2t+8, 2t+9;
//   C and D [16 x 8], four floats: c[0], c[1] = row g, columns 2t, 2t+1; c[2], c[3] = row g+8.
// The element of the lower row or column is the lower half of a word.

#if defined(DINO_SIMT)
#include "simt/instructions.hpp"
#else

#include <cstdint>

#include "base/half.hpp"

namespace dino::cuda {

__device__ __forceinline__ float float_of_bits(uint32_t bits) {
  return __uint_as_float(bits);
}
__device__ __forceinline__ uint32_t bits_of_float(float x) {
  return __float_as_uint(x);
}
__device__ __forceinline__ float float_of_half(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
__device__ __forceinline__ uint16_t half_of_float(float x) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
__device__ __forceinline__ uint16_t bfloat_of_float(float x) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
/// Two numbers of T in a word, `low` in the lower half, rounded to nearest even.
template <class T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack_pair<bf16>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
template <>
__device__ __forceinline__ uint32_t pack_pair<f16>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
/// 2^x, to 2 units in the last place.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 16 or 8 bytes to global or shared memory at once, which a store in C++ is not sure to be: nvcc 13 takes it
/// apart where it cannot work out the alignment by itself. Kernels use store_pack() (device_code.hpp).
__device__ __forceinline__ void store_words(void* to, const uint32_t (&words)[4]) {
  asm volatile("st.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}
__device__ __forceinline__ void store_words(void* to, const uint32_t (&words)[2]) {
  asm volatile("st.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(words[0]), "r"(words[1]) : "memory");
}

/// d += a b on tensor cores, f32 sums; by all lanes of a warp. T: bf16 or f16.
template <class T>
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void mma_16x8x16<bf16>(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma_16x8x16<f16>(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 matrices of 16-bit numbers from shared memory; by all lanes of a warp. Lane 8 i + r gives the
/// address of row r of matrix i, 16 bytes; lane 4 g + t receives row g, columns 2t, 2t+1 of matrix i in
/// words[i]. Transposed: rows 2t, 2t+1 of column g.
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], const void* shared_row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&words)[4], const void* shared_row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}

/// 16 bytes from global to shared memory beside the thread's work, or 16 zero bytes where `valid` is false
/// (the source is not read then). Done after copy_wait and, for other threads, a barrier.
__device__ __forceinline__ void copy_16_async(void* shared_to, const void* global_from, bool valid = true) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared_to));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global_from), "r"(bytes)
               : "memory");
}
/// What was copied since the last commit is a group.
__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// All groups of this thread but the latest `kLatest` have arrived.
template <int kLatest>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLatest) : "memory");
}

}  // namespace dino::cuda

#endif
