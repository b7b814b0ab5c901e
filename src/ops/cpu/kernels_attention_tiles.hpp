// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the attention kernels share: tiles of queries, scratch memory, rows in and out. Internal linkage: see
// vector.hpp.

#include "ops/cpu/kernels.hpp"
#include "ops/cpu/kernels_gemm.hpp"
#include "ops/cpu/vector.hpp"

namespace dino::ops {
namespace {

constexpr int64_t kQueryTile = 9 * 6;  ///< most rows in a tile of queries

inline int64_t padded(int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

/// Rows per tile: whole register tiles, and no small tile left over at the end.
inline int64_t query_tile(int64_t length) {
  const int64_t tiles = (length + kQueryTile - 1) / kQueryTile;
  const int64_t rows = (length + tiles - 1) / tiles;
  return smaller(kQueryTile, (rows + kTileRows - 1) / kTileRows * kTileRows);
}

/// The key dimension of score tiles. An odd number of cache lines, so that rows do not fall into one cache
/// set.
inline int64_t padded_keys(int64_t length) {
  const int64_t lines = (length + 15) / 16;
  return (lines | 1) * 16;
}

/// Pieces of the scratch memory, handed out in order; every piece stays 64-byte aligned.
class Pieces {
 public:
  explicit Pieces(float* memory) : next_(memory) {}
  float* take(int64_t count) {
    float* piece = next_;
    next_ += (count + 15) / 16 * 16;
    return piece;
  }
  Pair* take_pairs(int64_t count) { return reinterpret_cast<Pair*>(take(count)); }

 private:
  float* next_;
};

/// Enough for kernels_attention.hpp, and for kernels_attention_pairs.hpp, which keeps less.
inline int64_t attention_scratch_floats(int64_t length, int64_t width, bool backward) {
  const int64_t keys = padded_keys(length);
  const int64_t columns = padded(width) + 16;
  const int64_t forward = keys * columns * 2 + kQueryTile * (keys + 2 * columns);
  return backward ? forward + keys * columns * 3 + kQueryTile * (keys + 2 * columns) : forward;
}

/// The next head of this token lies behind this one, and is next in turn: rows of qkv are far apart in
/// memory, so the hardware does not see it coming.
template <class T>
DINO_INLINE void prefetch(const T* x, int64_t n) {
  for (int64_t i = 0; i < n; i += static_cast<int64_t>(64 / sizeof(T))) __builtin_prefetch(x + i);
}

/// Rows of T to floats, scaled; columns up to padded(width) are zero.
template <class T>
inline void unpack(int64_t rows, int64_t width, const T* from, int64_t stride, float scale, float* to) {
  const int64_t columns = padded(width);
  const Floats s = splat(scale);
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = from + r * stride;
    float* y = to + r * columns;
    prefetch(x + width, width);
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(y + i, s * load(x + i));
    if (i < width) store(y + i, s * load_part(x + i, width - i));
  }
}

/// The way back: to = scale from.
template <class T>
inline void pack(int64_t rows, int64_t width, const float* from, float scale, T* to, int64_t stride) {
  const int64_t columns = padded(width);
  const Floats s = splat(scale);
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = from + r * columns;
    T* y = to + r * stride;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(y + i, s * load(x + i));
    if (i < width) store_part(y + i, s * load(x + i), width - i);
  }
}

/// How many keys a query attends to.
template <class T>
inline int64_t keys_seen(const AttentionHead<T>& head, int64_t query) {
  return head.causal ? smaller(query + 1, head.keys) : head.keys;
}
/// Scores of the keys that a query does not attend to: no weight, and no gradient.
template <class T>
inline void hide_later_keys(const AttentionHead<T>& head, int64_t query, float* scores,
                            int64_t padded_length) {
  if (!head.causal) return;
  for (int64_t j = query + 1; j < padded_length; ++j) scores[j] = -__builtin_inff();
}

template <class T>
inline void prefetch_next_head(const AttentionHead<T>& head, const T* part) {
  for (int64_t r = 0; r < head.keys; ++r) prefetch(part + r * head.kv_stride + head.width, head.width);
}

}  // namespace
}  // namespace dino::ops
