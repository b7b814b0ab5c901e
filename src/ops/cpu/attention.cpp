// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/scratch.hpp"
#include "ops/host.hpp"

namespace dino::ops {
namespace {

/// The operands of one call: q and k | v may lie side by side in one matrix or in two. Strides in elements.
template <class T>
struct Operands {
  const T *q, *k, *v;
  T *q_gradient = nullptr, *k_gradient = nullptr, *v_gradient = nullptr;
  int64_t q_stride, kv_stride;
  HostSequences queries, keys;
  int64_t heads, model;
  float scale;

  static Operands packed(ConstTensorView qkv, const HostSequences& sequences, int64_t heads, float scale) {
    const int64_t model = qkv.dim(1) / 3;
    const T* q = qkv.as<T>();
    return {.q = q,
            .k = q + model,
            .v = q + 2 * model,
            .q_stride = 3 * model,
            .kv_stride = 3 * model,
            .queries = sequences,
            .keys = sequences,
            .heads = heads,
            .model = model,
            .scale = scale};
  }

  static Operands apart(ConstTensorView q, ConstTensorView kv, const HostSequences& queries,
                        const HostSequences& keys, int64_t heads, float scale) {
    const int64_t model = q.dim(1);
    return {.q = q.as<T>(),
            .k = kv.as<T>(),
            .v = kv.as<T>() + model,
            .q_stride = model,
            .kv_stride = 2 * model,
            .queries = queries,
            .keys = keys,
            .heads = heads,
            .model = model,
            .scale = scale};
  }

  /// Head `item % heads` of sequence `item / heads`; without outputs.
  [[nodiscard]] AttentionHead<T> head(int64_t item) const {
    const int64_t s = item / heads;
    const int64_t column = item % heads * (model / heads);
    const int64_t first = queries.begin(s) * q_stride + column;
    const int64_t first_key = keys.begin(s) * kv_stride + column;
    AttentionHead<T> result{};
    result.q = q + first;
    result.k = k + first_key;
    result.v = v + first_key;
    if (q_gradient != nullptr) {
      result.q_gradient = q_gradient + first;
      result.k_gradient = k_gradient + first_key;
      result.v_gradient = v_gradient + first_key;
    }
    result.q_stride = q_stride;
    result.kv_stride = kv_stride;
    result.out_stride = model;
    result.queries = queries.length(s);
    result.keys = keys.length(s);
    result.width = model / heads;
    result.scale = scale;
    result.causal = keys.causal();
    return result;
  }
  /// Of the head's first query in out [T, D], and in lse [heads, T].
  [[nodiscard]] int64_t out_offset(int64_t item) const {
    return queries.begin(item / heads) * model + item % heads * (model / heads);
  }
  [[nodiscard]] int64_t lse_offset(int64_t item) const {
    return item % heads * queries.rows() + queries.begin(item / heads);
  }
};

/// function(item, head) over all (sequence, head) with the thread's scratch memory. Long and short sequences
/// mix, so threads take items as they go; every item's result is its own.
template <class T, class Function>
void for_heads(const Operands<T>& operands, bool backward, Function&& function) {
  const HostSequences& keys = operands.keys;
  const int64_t items = keys.count() * operands.heads;
  // A thread that takes all heads of a sequence finds the next head in its cache (see prefetch()).
  const int64_t together = keys.count() >= 4 * int64_t{omp_get_max_threads()} ? operands.heads : 1;
  const int64_t need = kernels().attention_scratch(keys.longest(), operands.model / operands.heads, backward);
#pragma omp parallel if (items > 1 && keys.rows() * operands.model > kSerialElements / 3)
  {
    thread_local Scratch scratch;
    float* memory = scratch.floats(need);
#pragma omp for schedule(dynamic, together)
    for (int64_t item = 0; item < items; ++item) {
      AttentionHead<T> head = operands.head(item);
      head.scratch = memory;
      function(item, head);
    }
  }
}

template <class T>
void forward(const Operands<T>& operands, TensorView out, TensorView lse) {
  T* to = out.as<T>();
  float* sums = lse ? lse.as<float>() : nullptr;
  for_heads(operands, false, [&](int64_t item, AttentionHead<T>& head) {
    if (head.queries == 0) return;
    head.out = to + operands.out_offset(item);
    head.lse = sums != nullptr ? sums + operands.lse_offset(item) : nullptr;
    act_kernels<T>().attention(head);
  });
}

template <class T>
void backward(const Operands<T>& operands, ConstTensorView dout, ConstTensorView out, ConstTensorView lse) {
  const T* gradient = dout.as<T>();
  // The kernels only read `out` and `lse` in backward; one struct serves both directions.
  auto* result = const_cast<T*>(out.as<T>());
  auto* sums = const_cast<float*>(lse.as<float>());
  for_heads(operands, true, [&](int64_t item, AttentionHead<T>& head) {
    if (head.queries == 0) {
      for (int64_t j = 0; j < head.keys; ++j) {
        std::fill_n(head.k_gradient + j * head.kv_stride, head.width, T{});
        std::fill_n(head.v_gradient + j * head.kv_stride, head.width, T{});
      }
      return;
    }
    head.out_gradient = gradient + operands.out_offset(item);
    head.out = result + operands.out_offset(item);
    head.lse = sums + operands.lse_offset(item);
    act_kernels<T>().attention_backward(head);
  });
}

}  // namespace

void CpuBackend::attention(Stream&, ConstTensorView qkv, const Sequences& sequences, int64_t heads,
                           float scale, TensorView out, TensorView lse) {
  check::attention(qkv, sequences, heads, out, lse, true);
  const HostSequences packed(sequences);
  with_act(qkv.dtype, [&]<class T>(T) { forward(Operands<T>::packed(qkv, packed, heads, scale), out, lse); });
}

void CpuBackend::attention_backward(Stream&, ConstTensorView dout, ConstTensorView qkv, ConstTensorView out,
                                    ConstTensorView lse, const Sequences& sequences, int64_t heads,
                                    float scale, TensorView dqkv) {
  check::attention(qkv, sequences, heads, out, lse, false);
  check::attention(dqkv, sequences, heads, dout, {}, true);
  const HostSequences packed(sequences);
  with_act(qkv.dtype, [&]<class T>(T) {
    auto operands = Operands<T>::packed(qkv, packed, heads, scale);
    operands.q_gradient = dqkv.as<T>();
    operands.k_gradient = operands.q_gradient + operands.model;
    operands.v_gradient = operands.k_gradient + operands.model;
    backward(operands, dout, out, lse);
  });
}

void CpuBackend::query_attention(Stream&, ConstTensorView q, ConstTensorView kv, const Sequences& queries,
                                 const Sequences& keys, int64_t heads, float scale, TensorView out,
                                 TensorView lse) {
  check::query_attention(q, kv, queries, keys, heads, out, lse, true);
  const HostSequences of_q(queries), of_kv(keys);
  check_keys(of_q, of_kv);
  with_act(q.dtype,
           [&]<class T>(T) { forward(Operands<T>::apart(q, kv, of_q, of_kv, heads, scale), out, lse); });
}

void CpuBackend::query_attention_backward(Stream&, ConstTensorView dout, ConstTensorView q,
                                          ConstTensorView kv, ConstTensorView out, ConstTensorView lse,
                                          const Sequences& queries, const Sequences& keys, int64_t heads,
                                          float scale, TensorView dq, TensorView dkv) {
  check::query_attention(q, kv, queries, keys, heads, out, lse, false);
  check::query_attention(dq, dkv, queries, keys, heads, dout, {}, true);
  const HostSequences of_q(queries), of_kv(keys);
  check_keys(of_q, of_kv);
  with_act(q.dtype, [&]<class T>(T) {
    auto operands = Operands<T>::apart(q, kv, of_q, of_kv, heads, scale);
    operands.q_gradient = dq.as<T>();
    operands.k_gradient = dkv.as<T>();
    operands.v_gradient = operands.k_gradient + operands.model;
    backward(operands, dout, out, lse);
  });
}

void CpuBackend::attention_probabilities(Stream&, ConstTensorView qkv, const Sequences& sequences,
                                         int64_t heads, float scale, int64_t query, TensorView probs) {
  check::attention_probabilities(qkv, sequences, heads, query, probs);
  const HostSequences packed(sequences);
  const int64_t length = sequences.longest;
  float* to = probs.as<float>();
  with_act(qkv.dtype, [&]<class T>(T) {
    const auto operands = Operands<T>::packed(qkv, packed, heads, scale);
    parallel_for(sequences.count() * heads, length, [&](int64_t item) {
      const AttentionHead<T> head = operands.head(item);
      std::vector<float> q(static_cast<size_t>(head.width)), k(q.size());
      act_kernels<T>().to_float(head.q + query * head.q_stride, q.data(), head.width);
      float* row = to + item * length;
      for (int64_t j = 0; j < length; ++j) {
        act_kernels<T>().to_float(head.k + j * head.kv_stride, k.data(), head.width);
        row[j] = kernels().dot(q.data(), k.data(), head.width);
      }
      kernels().softmax(row, nullptr, scale, length);
    });
  });
}

}  // namespace dino::ops
