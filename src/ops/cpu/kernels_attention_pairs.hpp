// SPDX-License-Identifier: Apache-2.0
#pragma once
// Attention in bf16 where one instruction multiplies and adds two bf16 numbers per lane: the scheme of
// kernels_attention.hpp with all operands in pairs along the dimension that is summed over. Products are
// exact and sums are f32, as there; probabilities and their gradients are rounded to bf16 before they are
// multiplied on. Scores are scaled after the product, since scaled queries would be rounded once more.
// Internal linkage: see vector.hpp.

#include <cmath>

#include "ops/cpu/kernels_attention_tiles.hpp"

#if defined(__AVX512BF16__)

namespace dino::ops {
namespace {

/// Rows of bf16 as rows of pairs of columns.
inline const Pair* pairs_of(const bf16* x) {
  return reinterpret_cast<const Pair*>(x);
}

/// Rounded to bf16, in the lower half of each word.
DINO_INLINE Words rounded(Floats v) {
  return widened(reinterpret_cast<Halves>(_mm512_maskz_cvtneps_pbh(0xffff, v)));
}

/// Pairs of rows, for sums over rows: to[r/2, c] = (from[r, c], from[r+1, c]); what is beyond `rows` or
/// `width` is zero, up to padded(width) columns.
inline void pair_rows(int64_t rows, int64_t width, const bf16* from, int64_t stride, Pair* to) {
  const int64_t columns = padded(width);
  for (int64_t r = 0; r < rows; r += 2, to += columns) {
    const bf16* x = from + r * stride;
    const bf16* y = x + stride;
    const bool whole = r + 1 < rows;
    prefetch(x + width, width);
    if (whole) prefetch(y + width, width);
    for (int64_t c = 0; c < width; c += kLanes) {
      const int64_t n = smaller(kLanes, width - c);
      const Floats low = n == kLanes ? load(x + c) : load_part(x + c, n);
      const Floats high = !whole ? Floats{} : n == kLanes ? load(y + c) : load_part(y + c, n);
      store(to + c, reinterpret_cast<Words>(low) >> 16 | reinterpret_cast<Words>(high));
    }
  }
}

/// Turns a row of raw scores into unnormalised probabilities 2^(factor score - top); returns their sum before
/// they are rounded.
inline float exponentiate(float* scores, int64_t length, int64_t padded_length, float factor, bf16* to,
                          float& top) {
  for (int64_t j = length; j < padded_length; ++j) scores[j] = -__builtin_inff();
  Floats best = load(scores);
  for (int64_t j = kLanes; j < padded_length; j += kLanes) best = larger(load(scores + j), best);
  top = factor * largest(best);
  const Floats f = splat(factor), m = splat(-top);
  Floats total{};
  for (int64_t j = 0; j < padded_length; j += kLanes) {
    const Floats p = exp2_of_negative(fma(load(scores + j), f, m));
    store(to + j, p);
    total += p;
  }
  return sum(total);
}

inline void attention_of_pairs(const AttentionHead<bf16>& head) {
  const int64_t length = head.keys;
  const int64_t width = head.width;
  const int64_t columns = padded(width);
  const int64_t keys = padded(length);
  const int64_t ld = padded_keys(length);
  const float factor = head.scale * kLog2E;
  Pieces pieces(head.scratch);
  float* k_transposed = pieces.take(width / 2 * ld);
  Pair* v = pieces.take_pairs((length + 1) / 2 * columns);
  float* scores = pieces.take(kQueryTile * ld);
  Pair* probabilities = pieces.take_pairs(kQueryTile * ld / 2);
  float* out = pieces.take(kQueryTile * columns);
  prefetch_next_head(head, head.k);
  transpose(length, width / 2, pairs_of(head.k), head.kv_stride / 2, k_transposed, ld);
  pair_rows(length, width, head.v, head.kv_stride, v);
  const int64_t step = query_tile(head.queries);
  for (int64_t first = 0; first < head.queries; first += step) {
    const int64_t rows = smaller(step, head.queries - first);
    const bf16* q = head.q + first * head.q_stride;
    for (int64_t r = 0; r < rows; ++r) prefetch(q + r * head.q_stride + width, width);
    small_gemm<Pair>(rows, keys, width / 2, {pairs_of(q), head.q_stride / 2, 1},
                     reinterpret_cast<const Pair*>(k_transposed), ld, scores, ld, false);
    float sums[kQueryTile];
    for (int64_t r = 0; r < rows; ++r) {
      float top = 0;
      bf16* row = reinterpret_cast<bf16*>(probabilities) + r * ld;
      sums[r] = exponentiate(scores + r * ld, keys_seen(head, first + r), keys, factor, row, top);
      if (head.lse != nullptr) head.lse[first + r] = top * kLn2 + std::log(sums[r]);
    }
    small_gemm<Pair>(rows, columns, (length + 1) / 2, {probabilities, ld / 2, 1}, v, columns, out, columns,
                     false);
    for (int64_t r = 0; r < rows; ++r)
      pack(1, width, out + r * columns, 1.0f / sums[r], head.out + (first + r) * head.out_stride, 0);
  }
}

/// What two rows of scores need to become probabilities and their gradients.
struct ScoreRows {
  float lse[2], delta[2];
  bool second;  ///< whether there is a second row; else it counts as zero
};

/// P = 2^(factor score - lse) and dS = P (dP - delta) of two rows of `scores` and of dP in `gradients`. The
/// first row of each makes room for the pairs of both rows; dS also goes to rows of `to`, zero beyond
/// `length`.
inline void score_gradients(float* scores, float* gradients, int64_t ld, int64_t length, float factor,
                            const ScoreRows& rows, bf16* to) {
  const Floats f = splat(factor);
  const int64_t keys = padded(length);
  for (int64_t j = 0; j < keys; j += kLanes) {
    Floats p[2] = {}, ds[2] = {};
    for (int i = 0; i < (rows.second ? 2 : 1); ++i) {
      p[i] = exp2_of_negative(fma(load(scores + i * ld + j), f, splat(-rows.lse[i] * kLog2E)));
      ds[i] = p[i] * (load(gradients + i * ld + j) - splat(rows.delta[i]));
      store(to + i * ld + j, ds[i]);
    }
    store(reinterpret_cast<Pair*>(scores + j), rounded(p[0]) | rounded(p[1]) << 16);
    store(reinterpret_cast<Pair*>(gradients + j), rounded(ds[0]) | rounded(ds[1]) << 16);
  }
  if (length % 2 == 1)  // a pair of keys
    for (int i = 0; i < (rows.second ? 2 : 1); ++i) to[i * ld + length] = bf16(0.0f);
}

/// sum_c dout out = sum_j p dp
inline float delta_of(const bf16* dout, const bf16* out, int64_t width) {
  Floats total{};
  int64_t c = 0;
  for (; c + kLanes <= width; c += kLanes) total = fma(load(dout + c), load(out + c), total);
  if (c < width) total = fma(load_part(dout + c, width - c), load_part(out + c, width - c), total);
  return sum(total);
}

inline void attention_backward_of_pairs(const AttentionHead<bf16>& head) {
  const int64_t length = head.keys;
  const int64_t width = head.width;
  const int64_t columns = padded(width);
  const int64_t keys = padded(length);
  const int64_t ld = padded_keys(length);
  const int64_t stride = head.out_stride;
  Pieces pieces(head.scratch);
  float* k_transposed = pieces.take(width / 2 * ld);
  float* v_transposed = pieces.take(width / 2 * ld);
  Pair* k = pieces.take_pairs((length + 1) / 2 * columns);
  float* dk = pieces.take(length * columns);
  float* dv = pieces.take(length * columns);
  Pair* q = pieces.take_pairs(kQueryTile / 2 * columns);
  Pair* dout = pieces.take_pairs(kQueryTile / 2 * columns);
  float* dq = pieces.take(kQueryTile * columns);
  float* scores = pieces.take(kQueryTile * ld);
  float* gradients = pieces.take(kQueryTile * ld);
  Pair* rows_of_gradients = pieces.take_pairs(kQueryTile * ld / 2);
  const int64_t half = head.kv_stride / 2;
  transpose(length, width / 2, pairs_of(head.k), half, k_transposed, ld);
  transpose(length, width / 2, pairs_of(head.v), half, v_transposed, ld);
  pair_rows(length, width, head.k, head.kv_stride, k);
  const int64_t step = query_tile(head.queries);
  for (int64_t first = 0; first < head.queries; first += step) {
    const int64_t rows = smaller(step, head.queries - first);
    const bf16* q_rows = head.q + first * head.q_stride;
    const bf16* dout_rows = head.out_gradient + first * stride;
    const bf16* out_rows = head.out + first * stride;
    pair_rows(rows, width, q_rows, head.q_stride, q);
    pair_rows(rows, width, dout_rows, stride, dout);
    small_gemm<Pair>(rows, keys, width / 2, {pairs_of(q_rows), head.q_stride / 2, 1},
                     reinterpret_cast<const Pair*>(k_transposed), ld, scores, ld, false);
    small_gemm<Pair>(rows, keys, width / 2, {pairs_of(dout_rows), stride / 2, 1},
                     reinterpret_cast<const Pair*>(v_transposed), ld, gradients, ld, false);
    for (int64_t r = 0; r < rows; r += 2) {
      ScoreRows two{{}, {}, r + 1 < rows};
      for (int64_t i = 0; i < (two.second ? 2 : 1); ++i) {
        two.lse[i] = head.lse[first + r + i];
        hide_later_keys(head, first + r + i, scores + (r + i) * ld, keys);
        two.delta[i] = delta_of(dout_rows + (r + i) * stride, out_rows + (r + i) * stride, width);
      }
      score_gradients(scores + r * ld, gradients + r * ld, ld, length, head.scale * kLog2E, two,
                      reinterpret_cast<bf16*>(rows_of_gradients) + r * ld);
    }
    const int64_t two_rows = (rows + 1) / 2;
    small_gemm<Pair>(rows, columns, (length + 1) / 2, {rows_of_gradients, ld / 2, 1}, k, columns, dq, columns,
                     false);
    small_gemm<Pair>(length, columns, two_rows, {reinterpret_cast<const Pair*>(gradients), 1, 2 * ld}, q,
                     columns, dk, columns, first > 0);
    small_gemm<Pair>(length, columns, two_rows, {reinterpret_cast<const Pair*>(scores), 1, 2 * ld}, dout,
                     columns, dv, columns, first > 0);
    pack(rows, width, dq, head.scale, head.q_gradient + first * head.q_stride, head.q_stride);
  }
  pack(length, width, dk, head.scale, head.k_gradient, head.kv_stride);
  pack(length, width, dv, 1.0f, head.v_gradient, head.kv_stride);
}

}  // namespace
}  // namespace dino::ops

#endif
