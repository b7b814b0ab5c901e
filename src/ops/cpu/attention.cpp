// SPDX-License-Identifier: Apache-2.0
#include <omp.h>

#include "ops/checks.hpp"
#include "ops/cpu/cpu_backend.hpp"
#include "ops/cpu/parallel.hpp"
#include "ops/cpu/scratch.hpp"

namespace dino::ops {
namespace {

/// Where one (sequence, head) starts in qkv and in out.
struct Place {
  int64_t begin, length, qkv, out, lse;
};

Place place_of(ConstTensorView qkv, const Sequences& sequences, int64_t heads, int64_t item) {
  const int64_t s = item / heads;
  const int64_t h = item % heads;
  const int64_t model = qkv.dim(1) / 3;
  const int64_t begin = sequences.starts[static_cast<size_t>(s)];
  const int64_t column = h * (model / heads);
  return {begin, sequences.length(s), begin * 3 * model + column, begin * model + column,
          h * qkv.dim(0) + begin};
}

template <class T>
AttentionHead<T> input_of(ConstTensorView qkv, const Place& place, int64_t heads, float scale) {
  const int64_t model = qkv.dim(1) / 3;
  const T* q = qkv.as<T>() + place.qkv;
  AttentionHead<T> head{};
  head.q = q;
  head.k = q + model;
  head.v = q + 2 * model;
  head.qkv_stride = 3 * model;
  head.out_stride = model;
  head.length = place.length;
  head.width = model / heads;
  head.scale = scale;
  return head;
}

/// function(item) over all (sequence, head) with the thread's scratch memory. Long and short sequences mix,
/// so threads take items as they go; every item's result is its own.
template <class Function>
void for_heads(ConstTensorView qkv, const Sequences& sequences, int64_t heads, bool backward,
               Function&& function) {
  int64_t longest = 0;
  for (int64_t s = 0; s < sequences.count(); ++s) longest = std::max(longest, sequences.length(s));
  const int64_t items = sequences.count() * heads;
  // A thread that takes all heads of a sequence finds the next head in its cache (see prefetch()).
  const int64_t together = sequences.count() >= 4 * int64_t{omp_get_max_threads()} ? heads : 1;
  const int64_t need = kernels().attention_scratch(longest, qkv.dim(1) / 3 / heads, backward);
#pragma omp parallel if (items > 1 && qkv.numel() > kSerialElements)
  {
    thread_local Scratch scratch;
    float* memory = scratch.floats(need);
#pragma omp for schedule(dynamic, together)
    for (int64_t item = 0; item < items; ++item) {
      const Place place = place_of(qkv, sequences, heads, item);
      if (place.length > 0) function(place, memory);
    }
  }
}

}  // namespace

void CpuBackend::attention(ConstTensorView qkv, const Sequences& sequences, int64_t heads, float scale,
                           TensorView out, TensorView lse) {
  check::attention(qkv, sequences, heads, out, lse, true);
  float* sums = lse ? lse.as<float>() : nullptr;
  with_act(qkv.dtype, [&]<class T>(T) {
    T* to = out.as<T>();
    for_heads(qkv, sequences, heads, false, [&](const Place& place, float* memory) {
      AttentionHead<T> head = input_of<T>(qkv, place, heads, scale);
      head.out = to + place.out;
      head.lse = sums != nullptr ? sums + place.lse : nullptr;
      head.scratch = memory;
      act_kernels<T>().attention(head);
    });
  });
}

void CpuBackend::attention_backward(ConstTensorView dout, ConstTensorView qkv, ConstTensorView out,
                                    ConstTensorView lse, const Sequences& sequences, int64_t heads,
                                    float scale, TensorView dqkv) {
  check::attention(qkv, sequences, heads, out, lse, false);
  check::attention(dqkv, sequences, heads, dout, {}, true);
  const int64_t model = qkv.dim(1) / 3;
  // The kernels only read `out` and `lse` in backward; one struct serves both directions.
  auto* sums = const_cast<float*>(lse.as<float>());
  with_act(qkv.dtype, [&]<class T>(T) {
    const T* gradient = dout.as<T>();
    auto* result = const_cast<T*>(out.as<T>());
    T* to = dqkv.as<T>();
    for_heads(qkv, sequences, heads, true, [&](const Place& place, float* memory) {
      AttentionHead<T> head = input_of<T>(qkv, place, heads, scale);
      head.out_gradient = gradient + place.out;
      head.out = result + place.out;
      head.lse = sums + place.lse;
      head.q_gradient = to + place.qkv;
      head.k_gradient = head.q_gradient + model;
      head.v_gradient = head.k_gradient + model;
      head.scratch = memory;
      act_kernels<T>().attention_backward(head);
    });
  });
}

void CpuBackend::attention_probabilities(ConstTensorView qkv, const Sequences& sequences, int64_t heads,
                                         float scale, int64_t query, TensorView probs) {
  check::attention(qkv, sequences, heads, {}, {}, true);
  check::vector(probs, heads * qkv.dim(0), false);
  const int64_t length = sequences.count() > 0 ? sequences.length(0) : 0;
  for (int64_t s = 0; s < sequences.count(); ++s)
    DINO_CHECK(sequences.length(s) == length && query >= 0 && query < length,
               "one length for all sequences, and a query inside it");
  float* to = probs.as<float>();
  with_act(qkv.dtype, [&]<class T>(T) {
    parallel_for(sequences.count() * heads, length, [&](int64_t item) {
      const AttentionHead<T> head = input_of<T>(qkv, place_of(qkv, sequences, heads, item), heads, scale);
      std::vector<float> q(static_cast<size_t>(head.width)), k(q.size());
      act_kernels<T>().to_float(head.q + query * head.qkv_stride, q.data(), head.width);
      float* row = to + item * length;
      for (int64_t j = 0; j < length; ++j) {
        act_kernels<T>().to_float(head.k + j * head.qkv_stride, k.data(), head.width);
        row[j] = kernels().dot(q.data(), k.data(), head.width);
      }
      kernels().softmax(row, nullptr, scale, length);
    });
  });
}

}  // namespace dino::ops
