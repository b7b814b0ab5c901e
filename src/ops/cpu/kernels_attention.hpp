// SPDX-License-Identifier: Apache-2.0
#pragma once
// Attention of one head of one sequence: a tile of queries against all keys, so that scores live in the cache
// only. Internal linkage: see vector.hpp. Scores are kept in base 2: with q' = q scale log2(e), softmax is
// 2^(q' k - max) / sum.

#include <cmath>

#include "ops/cpu/kernels_attention_pairs.hpp"
#include "ops/cpu/kernels_attention_tiles.hpp"

namespace dino::ops {
namespace {

/// Turns a row of base-2 scores into unnormalised probabilities; returns their sum, and the maximum in `top`.
inline float exponentiate(float* scores, int64_t length, int64_t padded_length, float& top) {
  for (int64_t j = length; j < padded_length; ++j) scores[j] = -__builtin_inff();
  Floats best = load(scores);
  for (int64_t j = kLanes; j < padded_length; j += kLanes) best = larger(load(scores + j), best);
  top = largest(best);
  const Floats m = splat(top);
  Floats total{};
  for (int64_t j = 0; j < padded_length; j += kLanes) {
    const Floats p = exp2_of_negative(load(scores + j) - m);
    store(scores + j, p);
    total += p;
  }
  return sum(total);
}

template <class T>
void attention_head(const AttentionHead<T>& head) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, bf16>) {
    if (head.width % 2 == 0) return attention_of_pairs(head);
  }
#endif
  const int64_t length = head.keys;
  const int64_t width = head.width;
  const int64_t columns = padded(width);
  const int64_t keys = padded(length);
  const int64_t ld = padded_keys(length);
  Pieces pieces(head.scratch);
  float* k_transposed = pieces.take(width * ld);
  float* v = pieces.take(length * columns);
  float* q = pieces.take(kQueryTile * columns);
  float* scores = pieces.take(kQueryTile * ld);
  float* out = pieces.take(kQueryTile * columns);
  prefetch_next_head(head, head.k);
  transpose(length, width, head.k, head.kv_stride, k_transposed, ld);
  unpack(length, width, head.v, head.kv_stride, 1.0f, v);
  const int64_t step = query_tile(head.queries);
  for (int64_t first = 0; first < head.queries; first += step) {
    const int64_t rows = smaller(step, head.queries - first);
    unpack(rows, width, head.q + first * head.q_stride, head.q_stride, head.scale * kLog2E, q);
    small_gemm<float>(rows, keys, width, {q, columns, 1}, k_transposed, ld, scores, ld, false);
    float sums[kQueryTile];
    for (int64_t r = 0; r < rows; ++r) {
      float top = 0;
      sums[r] = exponentiate(scores + r * ld, keys_seen(head, first + r), keys, top);
      if (head.lse != nullptr) head.lse[first + r] = top * kLn2 + std::log(sums[r]);
    }
    small_gemm<float>(rows, columns, length, {scores, ld, 1}, v, columns, out, columns, false);
    for (int64_t r = 0; r < rows; ++r)
      pack(1, width, out + r * columns, 1.0f / sums[r], head.out + (first + r) * head.out_stride, 0);
  }
}

/// Rows of probabilities from scores and the forward's log-sum-exp, and of dS = P (dP - delta), in place.
inline void score_gradients(float* scores, float* gradients, int64_t keys, float lse, float delta) {
  const Floats top = splat(lse * kLog2E);
  const Floats d = splat(delta);
  for (int64_t j = 0; j < keys; j += kLanes) {
    const Floats p = exp2_of_negative(load(scores + j) - top);
    store(scores + j, p);
    store(gradients + j, p * (load(gradients + j) - d));
  }
}

template <class T>
void attention_backward_head(const AttentionHead<T>& head) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, bf16>) {
    if (head.width % 2 == 0) return attention_backward_of_pairs(head);
  }
#endif
  const int64_t length = head.keys;
  const int64_t width = head.width;
  const int64_t columns = padded(width);
  const int64_t keys = padded(length);
  const int64_t ld = padded_keys(length);
  Pieces pieces(head.scratch);
  float* k_transposed = pieces.take(width * ld);
  float* v_transposed = pieces.take(width * ld);
  float* k = pieces.take(length * columns);
  float* dk = pieces.take(length * columns);
  float* dv = pieces.take(length * columns);
  float* q = pieces.take(kQueryTile * columns);
  float* dq = pieces.take(kQueryTile * columns);
  float* dout = pieces.take(kQueryTile * columns);
  float* out = pieces.take(kQueryTile * columns);
  float* scores = pieces.take(kQueryTile * ld);
  float* gradients = pieces.take(kQueryTile * ld);
  transpose(length, width, head.k, head.kv_stride, k_transposed, ld);
  transpose(length, width, head.v, head.kv_stride, v_transposed, ld);
  unpack(length, width, head.k, head.kv_stride, 1.0f, k);
  const int64_t step = query_tile(head.queries);
  for (int64_t first = 0; first < head.queries; first += step) {
    const int64_t rows = smaller(step, head.queries - first);
    unpack(rows, width, head.q + first * head.q_stride, head.q_stride, head.scale * kLog2E, q);
    unpack(rows, width, head.out_gradient + first * head.out_stride, head.out_stride, 1.0f, dout);
    unpack(rows, width, head.out + first * head.out_stride, head.out_stride, 1.0f, out);
    small_gemm<float>(rows, keys, width, {q, columns, 1}, k_transposed, ld, scores, ld, false);
    small_gemm<float>(rows, keys, width, {dout, columns, 1}, v_transposed, ld, gradients, ld, false);
    for (int64_t r = 0; r < rows; ++r) {
      Floats delta{};  // sum_c dout out = sum_j p dp
      for (int64_t c = 0; c < columns; c += kLanes)
        delta = fma(load(dout + r * columns + c), load(out + r * columns + c), delta);
      hide_later_keys(head, first + r, scores + r * ld, keys);
      score_gradients(scores + r * ld, gradients + r * ld, keys, head.lse[first + r], sum(delta));
    }
    small_gemm<float>(rows, columns, length, {gradients, ld, 1}, k, columns, dq, columns, false);
    small_gemm<float>(length, columns, rows, {gradients, 1, ld}, q, columns, dk, columns, first > 0);
    small_gemm<float>(length, columns, rows, {scores, 1, ld}, dout, columns, dv, columns, first > 0);
    pack(rows, width, dq, head.scale, head.q_gradient + first * head.q_stride, head.q_stride);
  }
  pack(length, width, dk, kLn2, head.k_gradient, head.kv_stride);  // q held scale log2(e)
  pack(length, width, dv, 1.0f, head.v_gradient, head.kv_stride);
}

}  // namespace
}  // namespace dino::ops
