// SPDX-License-Identifier: Apache-2.0
// Block-diagonal attention: the operators, what the backward kernels need beforehand, and probabilities.

#include "ops/cuda/attention.hpp"

#include "ops/checks.hpp"
#include "ops/cuda/attention_tiles.hpp"
#include "ops/cuda/cuda_backend.hpp"

namespace dino::cuda {
namespace attention {

constexpr int kSmallBlock = 128;

/// Terms of 16 queries of one sequence, all heads (see attention.hpp): eight lanes per query and head.
template <class T, bool kPacks>
__global__ void __launch_bounds__(kSmallBlock)
    terms_kernel(const T* dout, const T* out, const float* lse, const int64_t* starts, int64_t count,
                 int64_t query_rows, int64_t term_rows, int heads, int width, float scale, float* terms) {
  const Place& place = place_of_block(starts, starts, count, kTermRows);
  if (place.own_left <= 0) return;
  const int lane = static_cast<int>(threadIdx.x) % 8;
  for (int item = static_cast<int>(threadIdx.x) / 8; item < kTermRows * heads; item += kSmallBlock / 8) {
    const int row = item / heads, head = item % heads;
    const bool exists = row < place.own_left;
    const int64_t at = ((place.own_begin + (exists ? row : 0)) * heads + head) * width;
    float sum = 0;
    if constexpr (kPacks) {
      for (int c = Pack<T>::kCount * lane; c < width; c += Pack<T>::kCount * 8) {
        const Pack<T> a = load_pack(dout + at + c), b = load_pack(out + at + c);
#pragma unroll
        for (int i = 0; i < Pack<T>::kCount; ++i) sum += widen(a.at[i]) * widen(b.at[i]);
      }
    } else {
      for (int c = lane; c < width; c += 8) sum += widen(dout[at + c]) * widen(out[at + c]);
    }
    for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (lane == 0) {
      float* to = terms + 2 * head * term_rows + place.own_term + row;
      to[0] = exists ? lse[head * query_rows + place.own_begin + row] * kLog2E : 0.0f;
      to[term_rows] = exists ? sum * scale : 0.0f;
    }
  }
}

/// Grid: sequences x heads.
template <class T>
__global__ void __launch_bounds__(kSmallBlock)
    probabilities_kernel(const T* qkv, const int64_t* starts, int width, float scale, int64_t query,
                         float* probs) {
  const int64_t begin = starts[blockIdx.x], length = starts[blockIdx.x + 1] - begin;
  const int64_t model = int64_t{gridDim.y} * width;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const T* q = qkv + (begin + query) * 3 * model + blockIdx.y * width;
  const T* k = qkv + begin * 3 * model + model + blockIdx.y * width;
  probs += (blockIdx.x * int64_t{gridDim.y} + blockIdx.y) * length;
  for (int64_t j = threadIdx.x / kWarp; j < length; j += kSmallBlock / kWarp) {
    float sum = 0;
    for (int c = lane; c < width; c += kWarp) sum += widen(q[c]) * widen(k[j * 3 * model + c]);
    sum = warp_sum(sum);
    if (lane == 0) probs[j] = sum * scale;
  }
  __syncthreads();
  float top = float_of_bits(kMinusInfinity);
  for (int64_t j = threadIdx.x; j < length; j += kSmallBlock) top = fmaxf(top, probs[j]);
  top = block_max(top);
  float total = 0;
  for (int64_t j = threadIdx.x; j < length; j += kSmallBlock) total += expf(probs[j] - top);
  total = block_sum(total);
  for (int64_t j = threadIdx.x; j < length; j += kSmallBlock) probs[j] = expf(probs[j] - top) / total;
}

bool aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

/// What the operators of both forms have in common; q and k | v lie side by side in one matrix or in two.
template <class T>
AttentionOperands<T> operands(const T* q, const T* kv, int64_t q_stride, int64_t kv_stride,
                              const ops::Sequences& queries, const ops::Sequences& keys, int64_t heads,
                              int64_t model, float scale) {
  DINO_CHECK(scale > 0, "attention's scale is " + std::to_string(scale));
  return {q,
          kv,
          kv + model,
          q_stride,
          kv_stride,
          pointer<int64_t>(queries.starts),
          pointer<int64_t>(keys.starts),
          queries.count(),
          queries.rows,
          keys.rows,
          queries.longest,
          keys.longest,
          heads,
          model / heads,
          scale,
          keys.causal};
}

template <class T>
void forward(Stream& stream, const AttentionOperands<T>& call, T* out, float* lse) {
  if constexpr (sizeof(T) == 2) {
    if (!call.causal && takes_tensor_cores(call.width) && aligned(call.q) && aligned(call.k) && aligned(out))
      return attention_forward(stream, call, out, lse);
  }
  attention_forward_plain(stream, call, out, lse);
}

template <class T>
const float* make_terms(Stream& stream, const AttentionOperands<T>& call, const T* dout, const T* out,
                        const float* lse) {
  const int64_t rows = term_rows(call);
  auto* terms = static_cast<float*>(
      cuda_stream(stream).scratch(static_cast<size_t>(2 * call.heads * rows) * sizeof(float)));
  const bool packs = call.width % Pack<T>::kCount == 0 && aligned(dout) && aligned(out);
  launch("attention terms", packs ? terms_kernel<T, true> : terms_kernel<T, false>,
         {{static_cast<unsigned>(rows / kTermRows)}, {kSmallBlock}}, stream, dout, out, lse,
         call.query_starts, call.count, call.query_rows, rows, call.heads, call.width, call.scale, terms);
  return terms;
}

template <class T>
void backward(Stream& stream, const AttentionOperands<T>& call, const T* dout, const T* out, const float* lse,
              const AttentionGradients<T>& gradients) {
  const float* terms = make_terms(stream, call, dout, out, lse);
  if constexpr (sizeof(T) == 2) {
    if (!call.causal && takes_tensor_cores(call.width) && aligned(call.q) && aligned(call.k) &&
        aligned(dout) && aligned(gradients.q) && aligned(gradients.k))
      return attention_gradients(stream, call, dout, terms, gradients);
  }
  attention_gradients_plain(stream, call, dout, terms, gradients);
}

}  // namespace attention
}  // namespace dino::cuda

namespace dino::ops {

using cuda::pointer;

void CudaBackend::attention(Stream& stream, ConstTensorView qkv, const Sequences& sequences, int64_t heads,
                            float scale, TensorView out, TensorView lse) {
  check::attention(qkv, sequences, heads, out, lse, true);
  const int64_t model = qkv.dim(1) / 3;
  with_cuda_act(qkv.dtype, [&]<class T>(T) {
    const T* q = pointer<T>(qkv);
    const auto call = cuda::attention::operands<T>(q, q + model, 3 * model, 3 * model, sequences, sequences,
                                                   heads, model, scale);
    cuda::attention::forward<T>(stream, call, pointer<T>(out), pointer<float>(lse));
  });
}

void CudaBackend::attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView qkv,
                                     ConstTensorView out, ConstTensorView lse, const Sequences& sequences,
                                     int64_t heads, float scale, TensorView dqkv) {
  check::attention(qkv, sequences, heads, out, lse, false);
  check::attention(dqkv, sequences, heads, dout, {}, true);
  const int64_t model = qkv.dim(1) / 3;
  with_cuda_act(qkv.dtype, [&]<class T>(T) {
    const T* q = pointer<T>(qkv);
    T* dq = pointer<T>(dqkv);
    const auto call = cuda::attention::operands<T>(q, q + model, 3 * model, 3 * model, sequences, sequences,
                                                   heads, model, scale);
    cuda::attention::backward<T>(stream, call, pointer<T>(dout), pointer<T>(out), pointer<float>(lse),
                                 {dq, dq + model, dq + 2 * model});
  });
}

void CudaBackend::query_attention(Stream& stream, ConstTensorView q, ConstTensorView kv,
                                  const Sequences& queries, const Sequences& keys, int64_t heads, float scale,
                                  TensorView out, TensorView lse) {
  check::query_attention(q, kv, queries, keys, heads, out, lse, true);
  const int64_t model = q.dim(1);
  with_cuda_act(q.dtype, [&]<class T>(T) {
    const auto call = cuda::attention::operands<T>(pointer<T>(q), pointer<T>(kv), model, 2 * model, queries,
                                                   keys, heads, model, scale);
    cuda::attention::forward<T>(stream, call, pointer<T>(out), pointer<float>(lse));
  });
}

void CudaBackend::query_attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView q,
                                           ConstTensorView kv, ConstTensorView out, ConstTensorView lse,
                                           const Sequences& queries, const Sequences& keys, int64_t heads,
                                           float scale, TensorView dq, TensorView dkv) {
  check::query_attention(q, kv, queries, keys, heads, out, lse, false);
  check::query_attention(dq, dkv, queries, keys, heads, dout, {}, true);
  const int64_t model = q.dim(1);
  with_cuda_act(q.dtype, [&]<class T>(T) {
    T* dk = pointer<T>(dkv);
    const auto call = cuda::attention::operands<T>(pointer<T>(q), pointer<T>(kv), model, 2 * model, queries,
                                                   keys, heads, model, scale);
    cuda::attention::backward<T>(stream, call, pointer<T>(dout), pointer<T>(out), pointer<float>(lse),
                                 {pointer<T>(dq), dk, dk + model});
  });
}

void CudaBackend::attention_probabilities(Stream& stream, ConstTensorView qkv, const Sequences& sequences,
                                          int64_t heads, float scale, int64_t query, TensorView probs) {
  check::attention_probabilities(qkv, sequences, heads, query, probs);
  const int64_t width = qkv.dim(1) / 3 / heads;
  with_cuda_act(qkv.dtype, [&]<class T>(T) {
    cuda::launch("attention probabilities", cuda::attention::probabilities_kernel<T>,
                 {{static_cast<unsigned>(sequences.count()), static_cast<unsigned>(heads)},
                  {cuda::attention::kSmallBlock}},
                 stream, pointer<T>(qkv), pointer<int64_t>(sequences.starts), width, scale, query,
                 pointer<float>(probs));
  });
}

}  // namespace dino::ops
