// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores, backward. Every sum belongs to one warp, which adds in the order of the rows
// that stream by: no atomics, the same bits every run. With scores s, weights p = softmax(s), and dp = dout
// v^T:
//   ds = p (dp - dout . out) scale;  dv = p^T dout;  dk = ds^T q;  dq = ds k.
// One kernel makes dv and dk: it owns keys, and queries stream by; one makes dq: it owns queries, and keys
// stream by. Both compute p and ds anew, with their own rows as the rows of the products, so that what one
// product leaves in registers is what the next one takes: seven products instead of five, and no exchange.
//
// A call over T rows of model width D, sequences of L rows: 26 T D bytes (4 for the terms; 8 + 4 for dk and
// dv, 8 + 2 for dq), 10 D sum(L^2) flops for the gradient, 14 D sum(L^2) carried out. Predicted, not
// measured, for an H100 SXM (989 TFLOP/s; 3.35 TB/s; shared memory of 128 bytes a cycle feeds products of 16
// own rows at 473 TFLOP/s) at L = 257, width 64, D = 1,024, per sequence: 6.8 MB, 2.0 us by bytes; 947 MFLOP
// carried out, with padding to 288 x 272 2.4 us by shared memory; 0.7 us by exponentials; little of it hides.
// In all 4.2 us, 160 TFLOP/s of the gradient's 676 MFLOP.

#include "ops/cuda/attention.hpp"
#include "ops/cuda/attention_tiles.hpp"

namespace dino::cuda {
namespace attention {

/// What a kernel makes.
enum class Part : int { keys_and_values, keys, values, queries };
template <Part kPart>
constexpr bool kOwnsKeys = kPart != Part::queries;
template <Part kPart>
constexpr bool kFirstWanted = kPart != Part::values;
template <Part kPart>
constexpr bool kSecondWanted = kPart == Part::values || kPart == Part::keys_and_values;

/// Six warps share what streams by where registers let two such blocks live together: 257 rows are three.
template <int kWidth>
constexpr int kWarps = kWidth <= 64 ? 6 : 4;
/// The second matrix's own rows lie behind the stages where both matrices' do not fit into one.
template <int kWidth>
constexpr bool kSecondApart = 16 * kWarps<kWidth> > kStreamed;
template <int kWidth>
constexpr int kSharedElements = 2 * kStageElements<kWidth> +
                                (kSecondApart<kWidth> ? 16 * kWarps<kWidth> * kPitch<kWidth> : 0);

/// A warp's own rows: of k and v, or of q and dout.
template <int kWidth>
struct Own {
  uint32_t first[1][kWidth / 16][4], second[1][kWidth / 16][4];
  float terms[2][2];                                              ///< of queries g and g + 8: lse, delta
  float of_first[1][kWidth / 8][4], of_second[1][kWidth / 8][4];  ///< the sums: dk and dv, or dq
};

/// Products of own rows with 16 rows of the other side: p = first first^T and, beside it, dp = second
/// second^T.
template <class T, int kWidth, bool kBoth>
__device__ __forceinline__ void score_16(float (&p)[2][4], float (&dp)[2][4], const Own<kWidth>& own,
                                         const T* first, const T* second) {
  const int at = row_of_score<kWidth>();
#pragma unroll
  for (int e = 0; e < 8; ++e) p[e / 4][e % 4] = dp[e / 4][e % 4] = 0;
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    uint32_t words[4], others[4];
    load_matrices(words, first + at + 16 * k);
    if (kBoth) load_matrices(others, second + at + 16 * k);
    multiply_pair<T>(p[0], p[1], own.first[0][k], words);
    if (kBoth) multiply_pair<T>(dp[0], dp[1], own.second[0][k], others);
  }
}

/// Takes in 16 of the other side's rows, of which `left` exist: of q and dout with their terms, or of k and
/// v. Queries beyond are zeros with zero terms, and add nothing; keys beyond get no weight.
template <class T, int kWidth, Part kPart, bool kMasked>
__device__ __forceinline__ void add_rows(Own<kWidth>& own, const T* first, const T* second,
                                         const float* terms, float factor, float scale, int left) {
  const int column = static_cast<int>(threadIdx.x) % 4 * 2;
  float p[1][2][4], ds[1][2][4];
  score_16<T, kWidth, kFirstWanted<kPart>>(p[0], ds[0], own, first, second);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float2 lse{}, delta{};
    if (kOwnsKeys<kPart>) {
      lse = *reinterpret_cast<const float2*>(terms + 8 * n + column);
      delta = *reinterpret_cast<const float2*>(terms + kStreamed + 8 * n + column);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float lse_e = kOwnsKeys<kPart> ? (e % 2 == 0 ? lse.x : lse.y) : own.terms[e / 2][0];
      const float delta_e = kOwnsKeys<kPart> ? (e % 2 == 0 ? delta.x : delta.y) : own.terms[e / 2][1];
      p[0][n][e] = exp2_fast(p[0][n][e] * factor - lse_e);
      if (kMasked && 8 * n + column + e % 2 >= left) p[0][n][e] = 0;
      ds[0][n][e] = p[0][n][e] * (ds[0][n][e] * scale - delta_e);
    }
  }
  if constexpr (kSecondWanted<kPart>) add_weighted<T, kWidth, 1, 1>(own.of_second, p, second);
  if constexpr (kFirstWanted<kPart>) add_weighted<T, kWidth, 1, 1>(own.of_first, ds, first);
}

/// Takes in a streamed tile, of whose rows `left` exist.
template <class T, int kWidth, Part kPart>
__device__ __forceinline__ void add_tile(Own<kWidth>& own, const T* first, const float* terms, float scale,
                                         int left) {
  const T* second = first + kStreamed * kPitch<kWidth>;
  const float factor = scale * kLog2E;
#pragma unroll 1
  for (int part = 0; part < kStreamed && part < left; part += 16) {
    const int at = part * kPitch<kWidth>;
    if (kOwnsKeys<kPart> || left - part >= 16)
      add_rows<T, kWidth, kPart, false>(own, first + at, second + at, terms + part, factor, scale, 16);
    else
      add_rows<T, kWidth, kPart, true>(own, first + at, second + at, terms + part, factor, scale,
                                       left - part);
  }
}

template <class T, int kWidth>
__device__ __forceinline__ void write_sums(T* to, int stride, const float (&sums)[1][kWidth / 8][4],
                                           T* staged, int rows) {
  const float as_is[1][2] = {{1, 1}};
  stage_rows<T, kWidth, 1>(staged, sums, as_is);
  write_rows<T, kWidth>(to, stride, staged, rows < 16 ? rows : 16);
}

template <int kWidth>
__device__ __forceinline__ void clear(float (&sums)[1][kWidth / 8][4]) {
#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[0][n][e] = 0;
}

/// Grid: tiles of own rows x heads. first and second are k and v (strides first_stride, second_stride) and
/// other_first, other_second q and dout; or the other way round. The results have the layout of `first`.
template <class T, int kWidth, Part kPart>
__global__ void __launch_bounds__(kWarps<kWidth>* kWarp, 2)
    backward_kernel(const T* first, const T* second, int first_stride, int second_stride,
                    const T* other_first, const T* other_second, int other_first_stride,
                    int other_second_stride, const int64_t* own_starts, const int64_t* other_starts,
                    int64_t count, const float* terms, int64_t term_rows, float scale, T* of_first,
                    T* of_second) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int warp = thread / kWarp, lane = thread % kWarp;
  const Place& place = place_of_block(own_starts, other_starts, count, threads / kWarp * 16);
  if (place.own_left <= 0) return;
  const int rows = place.own_left - warp * 16;  // of the warp, if there are as many; <= 0: none

  T* const stages = dynamic_shared<T>();
  T* const staged = stages + kStageElements<kWidth> + warp * 16 * kPitch<kWidth>;
  T* const staged_second =
      staged + (kSecondApart<kWidth> ? kStageElements<kWidth> : kStreamed * kPitch<kWidth>);
  float* const stage_terms = reinterpret_cast<float*>(stages + kSharedElements<kWidth>);
  const auto copy_tile = [&](int from) {
    const int stage = from / kStreamed % 2, left = place.other_length - from, copied = rows_to_copy(left);
    const int64_t row = place.other_begin + from;
    T* to = stages + stage * kStageElements<kWidth>;
    copy_rows<T, kWidth>(to, other_first + row * other_first_stride + place.head * kWidth, other_first_stride,
                         copied, left, thread, threads);
    copy_rows<T, kWidth>(to + kStreamed * kPitch<kWidth>,
                         other_second + row * other_second_stride + place.head * kWidth, other_second_stride,
                         copied, left, thread, threads);
    if (kOwnsKeys<kPart> && 4 * lane < copied)
      for (int kind = warp; kind < 2; kind += threads / kWarp) {
        const float* of_rows = terms + (2 * place.head + kind) * term_rows + place.other_term + from;
        copy_16_async(stage_terms + (2 * stage + kind) * kStreamed + 4 * lane, of_rows + 4 * lane);
      }
    copy_commit();
  };
  const int64_t own_row = place.own_begin + warp * 16;
  copy_rows<T, kWidth>(staged, first + own_row * first_stride + place.head * kWidth, first_stride, 16, rows,
                       lane, kWarp);
  if constexpr (kFirstWanted<kPart>)
    copy_rows<T, kWidth>(staged_second, second + own_row * second_stride + place.head * kWidth, second_stride,
                         16, rows, lane, kWarp);
  copy_commit();
  copy_tile(0);
  Own<kWidth> own;
  clear<kWidth>(own.of_first);
  clear<kWidth>(own.of_second);
  const float* own_terms = terms + 2 * place.head * term_rows + place.own_term + warp * 16 + lane / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    own.terms[i / 2][i % 2] = !kOwnsKeys<kPart> && rows > 0 ? own_terms[i % 2 * term_rows + i / 2 * 8] : 0;
  copy_wait<1>();
  __syncwarp();
  load_own<T, kWidth, 1>(own.first, staged);
  if constexpr (kFirstWanted<kPart>) load_own<T, kWidth, 1>(own.second, staged_second);

  for (int from = 0; from < place.other_length; from += kStreamed) {
    copy_wait<0>();
    __syncthreads();  // the tile is there, and nobody reads the one before, or own rows
    if (from + kStreamed < place.other_length) copy_tile(from + kStreamed);
    if (rows <= 0) continue;
    const int stage = from / kStreamed % 2, left = place.other_length - from;
    add_tile<T, kWidth, kPart>(own, stages + stage * kStageElements<kWidth>,
                               stage_terms + stage * 2 * kStreamed, scale, left);
  }
  copy_wait<0>();
  __syncthreads();  // nobody reads a tile any more
  if (rows <= 0) return;
  const int64_t at = (place.own_begin + warp * 16) * first_stride + place.head * kWidth;
  if constexpr (kFirstWanted<kPart>)
    write_sums<T, kWidth>(of_first + at, first_stride, own.of_first, staged, rows);
  if constexpr (kSecondWanted<kPart>)
    write_sums<T, kWidth>(of_second + at, first_stride, own.of_second, staged_second, rows);
}

/// Starts one of them.
template <class T, int kWidth, Part kPart>
void start(Stream& stream, const AttentionOperands<T>& call, const T* dout, const float* terms,
           const AttentionGradients<T>& gradients) {
  constexpr bool kKeys = kOwnsKeys<kPart>;
  const int64_t rows = kKeys ? call.key_rows : call.query_rows;
  const int64_t warps = attention_warps(kKeys ? call.longest_keys : call.longest_queries, 16, kWarps<kWidth>);
  const LaunchShape shape{{static_cast<unsigned>(attention_tiles(rows, call.count, warps * 16)),
                           static_cast<unsigned>(call.heads)},
                          {static_cast<unsigned>(warps * kWarp)},
                          kSharedElements<kWidth> * sizeof(T) + 2 * 2 * kStreamed * sizeof(float)};
  const auto kernel = backward_kernel<T, kWidth, kPart>;
  if (kKeys)
    launch("attention backward, keys", kernel, shape, stream, call.k, call.v, call.kv_stride, call.kv_stride,
           call.q, dout, call.q_stride, call.model(), call.key_starts, call.query_starts, call.count, terms,
           term_rows(call), call.scale, gradients.k, gradients.v);
  else
    launch("attention backward, queries", kernel, shape, stream, call.q, dout, call.q_stride, call.model(),
           call.k, call.v, call.kv_stride, call.kv_stride, call.query_starts, call.key_starts, call.count,
           terms, term_rows(call), call.scale, gradients.q, nullptr);
}

}  // namespace attention

template <class T>
void attention_gradients(Stream& stream, const AttentionOperands<T>& call, const T* dout, const float* terms,
                         const AttentionGradients<T>& gradients) {
  using attention::Part;
  with_head_width(call.width, [&](auto width) {
    constexpr int kWidth = width.value;
    if constexpr (kWidth <= 80) {
      attention::start<T, kWidth, Part::keys_and_values>(stream, call, dout, terms, gradients);
    } else {  // registers hold one of the two sums
      attention::start<T, kWidth, Part::values>(stream, call, dout, terms, gradients);
      attention::start<T, kWidth, Part::keys>(stream, call, dout, terms, gradients);
    }
    attention::start<T, kWidth, Part::queries>(stream, call, dout, terms, gradients);
  });
}
template void attention_gradients(Stream&, const AttentionOperands<bf16>&, const bf16*, const float*,
                                  const AttentionGradients<bf16>&);
template void attention_gradients(Stream&, const AttentionOperands<f16>&, const f16*, const float*,
                                  const AttentionGradients<f16>&);

}  // namespace dino::cuda
