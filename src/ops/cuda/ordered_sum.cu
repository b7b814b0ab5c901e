// SPDX-License-Identifier: Apache-2.0
// Sums over ranks, of the numbers that a collective has brought here.
#include "comm/cuda/ordered_sum.hpp"

#include <algorithm>

#include "ops/cuda/device_code.hpp"
#include "ops/cuda/launch.hpp"

namespace dino::cuda {
namespace {

constexpr int kBlock = 256;
/// The sum runs beside the step's own kernels: it leaves most of the GPU to them.
constexpr unsigned kMostBlocks = 264;

__device__ __forceinline__ double widest(float x) {
  return static_cast<double>(x);
}
__device__ __forceinline__ double widest(double x) {
  return x;
}
__device__ __forceinline__ double widest(bf16 x) {
  return static_cast<double>(widen(x));
}
__device__ __forceinline__ double widest(f16 x) {
  return static_cast<double>(widen(x));
}
template <class T>
__device__ __forceinline__ T rounded(double x) {
  return narrow<T>(static_cast<float>(x));
}
template <>
__device__ __forceinline__ double rounded<double>(double x) {
  return x;
}

/// `n` elements; with kPacked 16 bytes a thread and turn, all addresses multiples of 16.
template <class T, bool kPacked>
__global__ void __launch_bounds__(kBlock)
    sum_in_rank_order(const T* parts, int64_t stride, const T* own, int rank, int ranks, int64_t n, T* out) {
  constexpr int kCount = kPacked ? Pack<T>::kCount : 1;
  for (int64_t i = global_thread() * kCount; i < n; i += global_threads() * kCount) {
    double total[kCount];
    for (int j = 0; j < kCount; ++j) total[j] = 0;
#pragma unroll 4
    for (int r = 0; r < ranks; ++r) {
      const T* from = (r == rank ? own : parts + r * stride) + i;
      if constexpr (kPacked) {
        const Pack<T> pack = load_pack(from);
        for (int j = 0; j < kCount; ++j) total[j] += widest(pack.at[j]);
      } else {
        total[0] += widest(*from);
      }
    }
    if constexpr (kPacked) {
      Pack<T> pack;
      for (int j = 0; j < kCount; ++j) pack.at[j] = rounded<T>(total[j]);
      store_pack(out + i, pack);
    } else {
      out[i] = rounded<T>(total[0]);
    }
  }
}

bool aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

template <class T>
void enqueue_as(CudaStream& stream, const OrderedSum& sum) {
  const bool packed = aligned(sum.parts) && aligned(sum.own) && aligned(sum.out) &&
                      sum.stride % Pack<T>::kCount == 0 && sum.n % Pack<T>::kCount == 0;
  const int64_t turns = packed ? sum.n / Pack<T>::kCount : sum.n;
  const LaunchShape shape{{std::min(blocks_for(turns, kBlock), kMostBlocks)}, {kBlock}};
  const auto kernel = packed ? sum_in_rank_order<T, true> : sum_in_rank_order<T, false>;
  launch("sum_in_rank_order", kernel, shape, stream, static_cast<const T*>(sum.parts), sum.stride,
         static_cast<const T*>(sum.own), sum.rank, sum.ranks, sum.n, static_cast<T*>(sum.out));
}

}  // namespace

void enqueue(CudaStream& stream, DType dtype, const OrderedSum& sum) {
  switch (dtype) {
    case DType::f32:
      return enqueue_as<float>(stream, sum);
    case DType::f64:
      return enqueue_as<double>(stream, sum);
    case DType::bf16:
      return enqueue_as<bf16>(stream, sum);
    case DType::f16:
      return enqueue_as<f16>(stream, sum);
    default:
      DINO_CHECK(false, std::string("a sum in rank order of ") + name_of(dtype));
  }
}

}  // namespace dino::cuda
