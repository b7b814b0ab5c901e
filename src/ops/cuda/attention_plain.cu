// SPDX-License-Identifier: Apache-2.0
// Attention by f32 arithmetic, for f32 activations and for head widths that the tensor cores' kernels do not
// take. 256 threads own 64 rows and a slab of 64 columns of the results; a thread has a patch of 4 x 4 of
// each product. Both sides of a product pass through shared memory with the summed index outermost. A head
// wider than 64 has several slabs, which compute the weights once each.
//
// Predicted, not measured, for an H100 SXM (67 TFLOP/s of f32, a third of which is expected) at 257 rows, 16
// heads of 64, f32, per sequence: 270 MFLOP forward, 12 us; 947 MFLOP backward, 43 us.

#include "ops/cuda/attention.hpp"
#include "ops/cuda/attention_tiles.hpp"

namespace dino::cuda {
namespace attention {

constexpr int kSide = 64;   ///< rows and columns of a tile
constexpr int kDepth = 32;  ///< of the summed index, of what lies in shared memory at once
constexpr int kLine = kSide + 4;
constexpr int kPlainThreads = 256;
using Patch = float[4][4];

/// Left and right side of a product: [kDepth][kLine] each, or [kSide][kLine] for the right side alone; then
/// weights [kSide][kLine].
struct PlainShared {
  float* left;
  float* right;
  float* slab;
  float* weights;
};
constexpr int64_t kPlainSharedBytes = 2 * kSide * kLine * static_cast<int64_t>(sizeof(float));
__device__ __forceinline__ PlainShared plain_shared() {
  float* memory = dynamic_shared<float>();
  return {memory, memory + kDepth * kLine, memory, memory + kSide * kLine};
}
__device__ __forceinline__ int patch_row() {
  return static_cast<int>(threadIdx.x) / 16 * 4;
}
__device__ __forceinline__ int patch_column() {
  return static_cast<int>(threadIdx.x) % 16 * 4;
}
__device__ __forceinline__ void clear(Patch& patch) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) patch[i][j] = 0;
}

/// Whether the thread's patch reaches into a product of so many rows and columns; only such threads compute,
/// and shared memory is filled for them alone.
__device__ __forceinline__ bool has_patch(int rows, int columns) {
  return patch_row() < rows && patch_column() < columns;
}
__device__ __forceinline__ int whole_patches(int rows) {
  return rows < kSide ? (rows + 3) / 4 * 4 : kSide;
}

/// patch += left^T right over `depth` lines.
__device__ __forceinline__ void add_product(Patch& patch, const float* left, const float* right, int depth) {
#pragma unroll 2
  for (int d = 0; d < depth; ++d) {
    const Pack<float> a = load_pack(left + d * kLine + patch_row());
    const Pack<float> b = load_pack(right + d * kLine + patch_column());
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) patch[i][j] += a.at[i] * b.at[j];
  }
}

/// lines[c][r] = rows[r][from + c], c < kDepth; zero where there is no such row or column.
template <class T>
__device__ __forceinline__ void load_columns(float* lines, const T* rows, int stride, int count, int from,
                                             int width) {
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < whole_patches(count) * kDepth; i += kPlainThreads) {
    const int r = i / kDepth, c = i % kDepth;
    lines[c * kLine + r] = r < count && from + c < width ? widen(rows[r * stride + from + c]) : 0.0f;
  }
}
/// lines[r][c] = rows[r][from + c], c < kSide; the same.
template <class T>
__device__ __forceinline__ void load_slab(float* lines, const T* rows, int stride, int count, int from,
                                          int width) {
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < whole_patches(count) * kSide; i += kPlainThreads) {
    const int r = i / kSide, c = i % kSide;
    lines[r * kLine + c] = r < count && from + c < width ? widen(rows[r * stride + from + c]) : 0.0f;
  }
}
/// patch = own others^T over the whole width.
template <class T>
__device__ __forceinline__ void score_plain(Patch& patch, const PlainShared& shared, const T* own,
                                            int own_stride, int own_count, const T* others, int other_stride,
                                            int other_count, int width) {
  clear(patch);
  for (int from = 0; from < width; from += kDepth) {
    __syncthreads();
    load_columns(shared.left, own, own_stride, own_count, from, width);
    load_columns(shared.right, others, other_stride, other_count, from, width);
    __syncthreads();
    if (has_patch(own_count, other_count))
      add_product(patch, shared.left, shared.right, width - from < kDepth ? width - from : kDepth);
  }
}
/// sums += weights rows, for the block's slab; weights [own][other] are the threads' patches.
template <class T>
__device__ __forceinline__ void add_weighted_plain(Patch& sums, const PlainShared& shared,
                                                   const Patch& weights, int own_count, const T* rows,
                                                   int stride, int count, int from, int width) {
  __syncthreads();
  load_slab(shared.slab, rows, stride, count, from, width);
  if (has_patch(own_count, count))
#pragma unroll
    for (int j = 0; j < 4; ++j)
      store_pack(shared.weights + (patch_column() + j) * kLine + patch_row(),
                 Pack<float>{{weights[0][j], weights[1][j], weights[2][j], weights[3][j]}});
  __syncthreads();
  if (has_patch(own_count, width - from))
    add_product(sums, shared.weights, shared.slab, count < kSide ? count : kSide);
}
template <class T>
__device__ __forceinline__ void write_patch(T* rows, int stride, const Patch& patch, int count, int from,
                                            int width) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int row = patch_row() + i, column = from + patch_column() + j;
      if (row < count && column < width) rows[row * stride + column] = narrow<T>(patch[i][j]);
    }
}

/// Over the 16 threads that share rows.
template <class Function>
__device__ __forceinline__ float over_row(float x, Function&& join) {
  for (int step = 8; step > 0; step /= 2) x = join(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

/// Grid: tiles of queries x heads x slabs.
template <class T>
__global__ void __launch_bounds__(kPlainThreads, 2)
    plain_forward_kernel(const T* q, const T* k, const T* v, int q_stride, int kv_stride,
                         const int64_t* query_starts, const int64_t* key_starts, int64_t count,
                         int64_t query_rows, int width, float scale, bool causal, T* out, float* lse) {
  const Place& place = place_of_block(query_starts, key_starts, count, kSide);
  if (place.own_left <= 0) return;
  const int first_query = static_cast<int>(place.own_begin - place.other_begin);  // of a causal sequence
  const PlainShared shared = plain_shared();
  const int64_t first_column = int64_t{blockIdx.y} * width, model = int64_t{gridDim.y} * width;
  const int own = place.own_left, keys = place.other_length, slab = static_cast<int>(blockIdx.z) * kSide;
  q += place.own_begin * q_stride + first_column;
  k += place.other_begin * kv_stride + first_column;
  v += place.other_begin * kv_stride + first_column;
  Patch sums, p;
  clear(sums);
  float top[4], total[4];
  for (int i = 0; i < 4; ++i) {
    top[i] = float_of_bits(kMinusInfinity);
    total[i] = 0;
  }
  const float factor = scale * kLog2E;
  for (int from = 0; from < keys; from += kSide) {
    const int left = keys - from;
    score_plain(p, shared, q, q_stride, own, k + from * kv_stride, kv_stride, left, width);
    for (int i = 0; i < 4; ++i) {
      float largest = top[i];
      const int behind = first_query + patch_row() + i + 1 - from;  // of the row's keys
      const int seen = causal && behind < left ? behind : left;
      for (int j = 0; j < 4; ++j)
        if (patch_column() + j < seen) largest = fmaxf(largest, p[i][j]);
      largest = over_row(largest, [](float a, float b) { return fmaxf(a, b); });
      const float shrink = exp2f((top[i] - largest) * factor);
      top[i] = largest;
      total[i] *= shrink;
      for (int j = 0; j < 4; ++j) {
        p[i][j] = patch_column() + j < seen ? exp2f((p[i][j] - largest) * factor) : 0.0f;
        total[i] += p[i][j];
        sums[i][j] *= shrink;
      }
    }
    add_weighted_plain(sums, shared, p, own, v + from * kv_stride, kv_stride, left, slab, width);
  }
  for (int i = 0; i < 4; ++i) {
    const float whole = over_row(total[i], [](float a, float b) { return a + b; });
    for (int j = 0; j < 4; ++j) sums[i][j] /= whole;
    const int row = patch_row() + i;
    if (lse != nullptr && slab == 0 && patch_column() == 0 && row < own)
      lse[blockIdx.y * query_rows + place.own_begin + row] = top[i] * scale + logf(whole);
  }
  write_patch(out + place.own_begin * model + first_column, model, sums, own, slab, width);
}

/// Grid: tiles of own rows x heads x slabs; the operands as in attention_backward.cu.
template <class T, bool kOwnsKeys>
__global__ void __launch_bounds__(kPlainThreads, 2)
    plain_backward_kernel(const T* first, const T* second, int first_stride, int second_stride,
                          const T* other_first, const T* other_second, int other_first_stride,
                          int other_second_stride, const int64_t* own_starts, const int64_t* other_starts,
                          int64_t count, const float* terms, int64_t term_rows, int width, float scale,
                          bool causal, T* of_first, T* of_second) {
  const Place& place = place_of_block(own_starts, other_starts, count, kSide);
  if (place.own_left <= 0) return;
  const PlainShared shared = plain_shared();
  const int own = place.own_left, slab = static_cast<int>(blockIdx.z) * kSide;
  const int first_own = static_cast<int>(place.own_begin - place.other_begin);  // of a causal sequence
  const auto own_rows = [&](auto* matrix, int stride) {
    return matrix + place.own_begin * stride + place.head * width;
  };
  const auto other_rows = [&](const T* matrix, int stride, int from) {
    return matrix + (place.other_begin + from) * stride + place.head * width;
  };
  Patch sums, second_sums, p, ds;
  clear(sums);
  clear(second_sums);
  const float factor = scale * kLog2E;
  for (int from = 0; from < place.other_length; from += kSide) {
    const int left = place.other_length - from;
    score_plain(p, shared, own_rows(first, first_stride), first_stride, own,
                other_rows(other_first, other_first_stride, from), other_first_stride, left, width);
    score_plain(ds, shared, own_rows(second, second_stride), second_stride, own,
                other_rows(other_second, other_second_stride, from), other_second_stride, left, width);
    const float* of_queries =
        terms + 2 * place.head * term_rows + (kOwnsKeys ? place.other_term + from : place.own_term);
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        const int own_row = patch_row() + i, other_row = patch_column() + j;
        const int ahead = first_own + own_row - (from + other_row);  // own position before the other's
        const bool exists =
            own_row < own && other_row < left && !(causal && (kOwnsKeys ? ahead > 0 : ahead < 0));
        const int query = exists ? (kOwnsKeys ? other_row : own_row) : 0;
        p[i][j] = exists ? exp2f(p[i][j] * factor - of_queries[query]) : 0.0f;
        ds[i][j] = p[i][j] * (ds[i][j] * scale - of_queries[term_rows + query]);
      }
    if (kOwnsKeys)
      add_weighted_plain(second_sums, shared, p, own, other_rows(other_second, other_second_stride, from),
                         other_second_stride, left, slab, width);
    add_weighted_plain(sums, shared, ds, own, other_rows(other_first, other_first_stride, from),
                       other_first_stride, left, slab, width);
  }
  write_patch(own_rows(of_first, first_stride), first_stride, sums, own, slab, width);
  if (kOwnsKeys) write_patch(own_rows(of_second, first_stride), first_stride, second_sums, own, slab, width);
}

template <class T>
LaunchShape plain_shape(const AttentionOperands<T>& call, int64_t rows) {
  return {{static_cast<unsigned>(attention_tiles(rows, call.count, kSide)), static_cast<unsigned>(call.heads),
           blocks_for(call.width, kSide)},
          {kPlainThreads},
          kPlainSharedBytes};
}

}  // namespace attention

template <class T>
void attention_forward_plain(Stream& stream, const AttentionOperands<T>& call, T* out, float* lse) {
  launch("plain attention", attention::plain_forward_kernel<T>, attention::plain_shape(call, call.query_rows),
         stream, call.q, call.k, call.v, call.q_stride, call.kv_stride, call.query_starts, call.key_starts,
         call.count, call.query_rows, call.width, call.scale, call.causal, out, lse);
}
template <class T>
void attention_gradients_plain(Stream& stream, const AttentionOperands<T>& call, const T* dout,
                               const float* terms, const AttentionGradients<T>& gradients) {
  launch("plain attention backward, keys", attention::plain_backward_kernel<T, true>,
         attention::plain_shape(call, call.key_rows), stream, call.k, call.v, call.kv_stride, call.kv_stride,
         call.q, dout, call.q_stride, call.model(), call.key_starts, call.query_starts, call.count, terms,
         term_rows(call), call.width, call.scale, call.causal, gradients.k, gradients.v);
  launch("plain attention backward, queries", attention::plain_backward_kernel<T, false>,
         attention::plain_shape(call, call.query_rows), stream, call.q, dout, call.q_stride, call.model(),
         call.k, call.v, call.kv_stride, call.kv_stride, call.query_starts, call.key_starts, call.count,
         terms, term_rows(call), call.width, call.scale, call.causal, gradients.q, nullptr);
}
template void attention_forward_plain(Stream&, const AttentionOperands<float>&, float*, float*);
template void attention_forward_plain(Stream&, const AttentionOperands<bf16>&, bf16*, float*);
template void attention_forward_plain(Stream&, const AttentionOperands<f16>&, f16*, float*);
template void attention_gradients_plain(Stream&, const AttentionOperands<float>&, const float*, const float*,
                                        const AttentionGradients<float>&);
template void attention_gradients_plain(Stream&, const AttentionOperands<bf16>&, const bf16*, const float*,
                                        const AttentionGradients<bf16>&);
template void attention_gradients_plain(Stream&, const AttentionOperands<f16>&, const f16*, const float*,
                                        const AttentionGradients<f16>&);

}  // namespace dino::cuda
