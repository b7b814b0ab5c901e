// SPDX-License-Identifier: Apache-2.0
#pragma once
// What kernels are written in, and all that they may use: the language's keywords (threadIdx, blockIdx,
// blockDim, gridDim, __syncthreads, __syncwarp, shuffles and votes, atomics), the functions below, and
// instructions.hpp. No header of the runtime. Compiled by nvcc they run on a GPU; compiled as C++ with
// DINO_SIMT they run on the executor of tests/simt, which brings the keywords.
//  - Shared memory: block_shared<T>() and dynamic_shared<T>() alone. It holds nothing at first.
//  - No kernel adds floats atomically: a result depends on the inputs and the launch shape alone.
//  - Every thread of a block reaches every __syncthreads(), every lane named in a mask its shuffle.

#include <cstddef>
#include <cstdint>

#include "base/half.hpp"

#if defined(DINO_SIMT)
#include "simt/language.hpp"
#else

namespace dino::cuda {

/// One T in the block's shared memory; another T is another place. T holds arrays of plain numbers.
template <class T>
__device__ __forceinline__ T& block_shared() {
  __shared__ T storage;
  return storage;
}
/// The launch's dynamic shared memory, 16-byte aligned.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ uint4 dino_dynamic_shared[];
  return reinterpret_cast<T*>(dino_dynamic_shared);
}

}  // namespace dino::cuda

#endif

#include "ops/cuda/instructions.hpp"

namespace dino::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// ---- numbers of activations: f32, bf16, f16

__device__ __forceinline__ float widen(float x) {
  return x;
}
__device__ __forceinline__ float widen(bf16 x) {
  return float_of_bits(static_cast<uint32_t>(x.bits) << 16);
}
__device__ __forceinline__ float widen(f16 x) {
  return float_of_half(x.bits);
}
/// Rounded to nearest even.
template <class T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float x) {
  bf16 y;
  y.bits = bfloat_of_float(x);
  return y;
}
template <>
__device__ __forceinline__ f16 narrow<f16>(float x) {
  f16 y;
  y.bits = half_of_float(x);
  return y;
}

/// N numbers, aligned to their size or 16 bytes.
template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Group {
  T at[N];
};
/// 16 bytes of numbers.
template <class T>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(T);
  T at[kCount];
};

/// A group or pack in accesses of 16 bytes, or one of what it has; the address is a multiple of that. (On the
/// executor an access is one of the numbers' type, which the sanitizer checks for alignment.)
template <class G>
__device__ __forceinline__ G load_whole(const G* from) {
#if defined(DINO_SIMT)
  return *from;
#else
  G group;
  if constexpr (sizeof(G) >= 16) {
    uint4 words[sizeof(G) / 16];
    for (int i = 0; i < static_cast<int>(sizeof(G) / 16); ++i)
      words[i] = reinterpret_cast<const uint4*>(from)[i];
    memcpy(&group, words, sizeof(G));
  } else {
    group = *from;
  }
  return group;
#endif
}
template <class G>
__device__ __forceinline__ void store_whole(G* to, const G& group) {
#if defined(DINO_SIMT)
  *to = group;
#else
  if constexpr (sizeof(G) >= 8) {
    constexpr int kBytes = sizeof(G) >= 16 ? 16 : 8;
    for (int i = 0; i < static_cast<int>(sizeof(G) / kBytes); ++i) {
      uint32_t words[kBytes / 4];
      memcpy(words, reinterpret_cast<const char*>(&group) + i * kBytes, kBytes);
      store_words(reinterpret_cast<char*>(to) + i * kBytes, words);
    }
  } else if constexpr (sizeof(G) == 4) {
    uint32_t word;
    memcpy(&word, &group, 4);
    *reinterpret_cast<uint32_t*>(to) = word;
  } else {
    *to = group;
  }
#endif
}
/// The address is a multiple of 16.
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* from) {
  return load_whole(reinterpret_cast<const Pack<T>*>(from));
}
template <class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T>& pack) {
  store_whole(reinterpret_cast<Pack<T>*>(to), pack);
}

// ---- sums over lanes and blocks, in a fixed order

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
template <class T>
__device__ __forceinline__ T warp_max(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, x, step);
    x = other > x ? other : x;
  }
  return x;
}

template <class T>
struct WarpResults {
  T of_warp[kWarp];
};

/// Of all threads of the block, to each of them; the block is one-dimensional, of whole warps. Two barriers.
template <class T>
__device__ __forceinline__ T block_sum(T x) {
  WarpResults<T>& shared = block_shared<WarpResults<T>>();
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  x = warp_sum(x);
  if (lane == 0) shared.of_warp[threadIdx.x / kWarp] = x;
  __syncthreads();
  T total = 0;
  for (int warp = 0; warp < warps; ++warp) total += shared.of_warp[warp];
  __syncthreads();
  return total;
}
template <class T>
__device__ __forceinline__ T block_max(T x) {
  WarpResults<T>& shared = block_shared<WarpResults<T>>();
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  x = warp_max(x);
  if (lane == 0) shared.of_warp[threadIdx.x / kWarp] = x;
  __syncthreads();
  T top = shared.of_warp[0];
  for (int warp = 1; warp < warps; ++warp) top = shared.of_warp[warp] > top ? shared.of_warp[warp] : top;
  __syncthreads();
  return top;
}

/// The block's and thread's number in a one-dimensional launch.
__device__ __forceinline__ int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t global_threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

}  // namespace dino::cuda
