// SPDX-License-Identifier: Apache-2.0
#pragma once
// Between the attention operators (attention.cu) and the three files of their kernels.

#include <algorithm>

#include "ops/cuda/launch.hpp"
#include "ops/ops.hpp"

namespace dino::cuda {

/// The operands of one call: q and k | v may lie side by side in one matrix or in two. Strides in elements.
/// out and dout are [query_rows, heads * width], lse is [heads, query_rows].
template <class T>
struct AttentionOperands {
  const T *q, *k, *v;
  int64_t q_stride, kv_stride;
  const int64_t *query_starts, *key_starts;
  int64_t count, query_rows, key_rows, longest_queries, longest_keys;
  int64_t heads, width;
  float scale;
  bool causal;  ///< query i attends to keys [0, i]
  [[nodiscard]] int64_t model() const { return heads * width; }
};
template <class T>
struct AttentionGradients {
  T *q, *k, *v;  ///< strides are those of the operands
};

/// Tiles of `rows` rows, see tile_at() in attention_tiles.hpp.
[[nodiscard]] inline int64_t attention_tiles(int64_t all_rows, int64_t count, int64_t rows) {
  return all_rows / rows + count;
}
/// Warps of a block that owns `rows_of_warp` rows per warp: as few blocks per sequence as there may be, and
/// these as even as there may be. 257 rows by 32: three blocks of three warps.
[[nodiscard]] inline int64_t attention_warps(int64_t longest, int64_t rows_of_warp, int64_t limit) {
  const int64_t warps = std::max<int64_t>(1, (longest + rows_of_warp - 1) / rows_of_warp);
  const int64_t blocks = (warps + limit - 1) / limit;
  return (warps + blocks - 1) / blocks;
}

namespace attention {
/// The two numbers of each query row and head that the backward kernels need: lse in base 2 and scale times
/// dout . out, side by side, f32 [heads, term_rows(), 2]; rows in tiles of kTermRows, the rest of a
/// sequence's last tile zero.
constexpr int kTermRows = 16;
}  // namespace attention
template <class T>
[[nodiscard]] int64_t term_rows(const AttentionOperands<T>& call) {
  return attention_tiles(call.query_rows, call.count, attention::kTermRows) * attention::kTermRows;
}

/// On tensor cores: T is bf16 or f16, all addresses are multiples of 16.
[[nodiscard]] inline bool takes_tensor_cores(int64_t width) {
  return width % 16 == 0 && width <= 128;
}
/// Calls function(std::integral_constant<int, width>{}) for such a width.
template <class Function>
void with_head_width(int64_t width, Function&& function) {
  [&]<int... kSixteens>(std::integer_sequence<int, kSixteens...>) {
    ((width == 16 * (kSixteens + 1) ? function(std::integral_constant<int, 16 * (kSixteens + 1)>{}) : void()),
     ...);
  }
  (std::make_integer_sequence<int, 8>{});
}
template <class T>
void attention_forward(Stream& stream, const AttentionOperands<T>& call, T* out, float* lse);
template <class T>
void attention_gradients(Stream& stream, const AttentionOperands<T>& call, const T* dout, const float* terms,
                         const AttentionGradients<T>& gradients);

/// By f32 arithmetic: any T and width; causal attention, whose sequences are short texts, takes this way too.
template <class T>
void attention_forward_plain(Stream& stream, const AttentionOperands<T>& call, T* out, float* lse);
template <class T>
void attention_gradients_plain(Stream& stream, const AttentionOperands<T>& call, const T* dout,
                               const float* terms, const AttentionGradients<T>& gradients);

}  // namespace dino::cuda
