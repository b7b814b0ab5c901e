// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <span>

#include "ops/checks.hpp"
#include "ops/host.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {
namespace {

/// q, k and v as matrices of their own, f64.
struct AttentionOperands {
  std::vector<double> q, k, v;  ///< [queries or keys, D]
  HostSequences queries, keys;
  int64_t heads, model;
  double scale;
};

/// Columns [first, first + width) of a matrix.
std::vector<double> columns(ConstTensorView x, int64_t first, int64_t width) {
  const Reader read(x);
  std::vector<double> part;
  part.reserve(static_cast<size_t>(x.dim(0) * width));
  for (int64_t r = 0; r < x.dim(0); ++r)
    for (int64_t c = 0; c < width; ++c) part.push_back(read[r * x.dim(1) + first + c]);
  return part;
}

AttentionOperands packed(ConstTensorView qkv, const HostSequences& sequences, int64_t heads, float scale) {
  const int64_t model = qkv.dim(1) / 3;
  return {columns(qkv, 0, model),
          columns(qkv, model, model),
          columns(qkv, 2 * model, model),
          sequences,
          sequences,
          heads,
          model,
          scale};
}

AttentionOperands apart(ConstTensorView q, ConstTensorView kv, const HostSequences& queries,
                        const HostSequences& keys, int64_t heads, float scale) {
  const int64_t model = q.dim(1);
  return {columns(q, 0, model),
          columns(kv, 0, model),
          columns(kv, model, model),
          queries,
          keys,
          heads,
          model,
          scale};
}

/// One head of one sequence.
struct Head {
  const AttentionOperands& of;
  int64_t first_query, queries, first_key, keys, head, width;
  [[nodiscard]] size_t query(int64_t i, int64_t c) const {
    return static_cast<size_t>((first_query + i) * of.model + head * width + c);
  }
  [[nodiscard]] size_t key(int64_t j, int64_t c) const {
    return static_cast<size_t>((first_key + j) * of.model + head * width + c);
  }
  /// softmax over the keys that query i attends to, 0 for the others; returns the log-sum-exp.
  double softmax_row(int64_t i, std::vector<double>& p) const {
    p.assign(static_cast<size_t>(keys), 0.0);
    const int64_t seen = of.keys.causal() ? i + 1 : keys;
    for (int64_t j = 0; j < seen; ++j) {
      for (int64_t c = 0; c < width; ++c) p[static_cast<size_t>(j)] += of.q[query(i, c)] * of.k[key(j, c)];
      p[static_cast<size_t>(j)] *= of.scale;
    }
    const std::span<double> weights(p.data(), static_cast<size_t>(seen));
    const double top = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& value : weights) sum += value = std::exp(value - top);
    for (double& value : weights) value /= sum;
    return top + std::log(sum);
  }
};

template <class Function>
void for_each_head(const AttentionOperands& operands, Function&& function) {
  for (int64_t s = 0; s < operands.keys.count(); ++s)
    for (int64_t h = 0; h < operands.heads; ++h)
      function(s, Head{operands, operands.queries.begin(s), operands.queries.length(s),
                       operands.keys.begin(s), operands.keys.length(s), h, operands.model / operands.heads});
}

void forward(const AttentionOperands& operands, TensorView out, TensorView lse) {
  std::vector<double> p;
  for_each_head(operands, [&](int64_t, const Head& head) {
    for (int64_t i = 0; i < head.queries; ++i) {
      const double log_sum = head.softmax_row(i, p);
      if (lse) Writer(lse).set(head.head * operands.queries.rows() + head.first_query + i, log_sum);
      for (int64_t c = 0; c < head.width; ++c) {
        double sum = 0;
        for (int64_t j = 0; j < head.keys; ++j) sum += p[static_cast<size_t>(j)] * operands.v[head.key(j, c)];
        Writer(out).set(static_cast<int64_t>(head.query(i, c)), sum);
      }
    }
  });
}

struct Gradients {
  std::vector<double> q, k, v;  ///< as in AttentionOperands
};

Gradients backward(const AttentionOperands& operands, ConstTensorView dout, ConstTensorView out) {
  const Reader gradient(dout), result(out);
  Gradients d{std::vector<double>(operands.q.size()), std::vector<double>(operands.k.size()),
              std::vector<double>(operands.v.size())};
  std::vector<double> p;
  for_each_head(operands, [&](int64_t, const Head& head) {
    const auto g = [&](int64_t i, int64_t c) { return gradient[static_cast<int64_t>(head.query(i, c))]; };
    for (int64_t i = 0; i < head.queries; ++i) {
      head.softmax_row(i, p);
      double delta = 0;  // sum_c dout out = sum_j p dp
      for (int64_t c = 0; c < head.width; ++c)
        delta += g(i, c) * result[static_cast<int64_t>(head.query(i, c))];
      for (int64_t j = 0; j < head.keys; ++j) {
        const double pij = p[static_cast<size_t>(j)];
        double dp = 0;
        for (int64_t c = 0; c < head.width; ++c) dp += g(i, c) * operands.v[head.key(j, c)];
        const double ds = pij * (dp - delta) * operands.scale;
        for (int64_t c = 0; c < head.width; ++c) {
          d.q[head.query(i, c)] += ds * operands.k[head.key(j, c)];
          d.k[head.key(j, c)] += ds * operands.q[head.query(i, c)];
          d.v[head.key(j, c)] += pij * g(i, c);
        }
      }
    }
  });
  return d;
}

/// The inverse of columns().
void set_columns(TensorView x, int64_t first, const std::vector<double>& part) {
  const Writer write(x);
  const int64_t width = x.dim(0) == 0 ? 0 : static_cast<int64_t>(part.size()) / x.dim(0);
  for (int64_t r = 0; r < x.dim(0); ++r)
    for (int64_t c = 0; c < width; ++c)
      write.set(r * x.dim(1) + first + c, part[static_cast<size_t>(r * width + c)]);
}

}  // namespace

void ReferenceBackend::attention(Stream&, ConstTensorView qkv, const Sequences& sequences, int64_t heads,
                                 float scale, TensorView out, TensorView lse) {
  check::attention(qkv, sequences, heads, out, lse, true);
  forward(packed(qkv, HostSequences(sequences), heads, scale), out, lse);
}

void ReferenceBackend::attention_backward(Stream&, ConstTensorView dout, ConstTensorView qkv,
                                          ConstTensorView out, ConstTensorView lse,
                                          const Sequences& sequences, int64_t heads, float scale,
                                          TensorView dqkv) {
  check::attention(qkv, sequences, heads, out, lse, false);
  check::attention(dqkv, sequences, heads, dout, {}, true);
  const AttentionOperands operands = packed(qkv, HostSequences(sequences), heads, scale);
  const Gradients d = backward(operands, dout, out);
  set_columns(dqkv, 0, d.q);
  set_columns(dqkv, operands.model, d.k);
  set_columns(dqkv, 2 * operands.model, d.v);
}

void ReferenceBackend::query_attention(Stream&, ConstTensorView q, ConstTensorView kv,
                                       const Sequences& queries, const Sequences& keys, int64_t heads,
                                       float scale, TensorView out, TensorView lse) {
  check::query_attention(q, kv, queries, keys, heads, out, lse, true);
  const HostSequences of_q(queries), of_kv(keys);
  check_keys(of_q, of_kv);
  forward(apart(q, kv, of_q, of_kv, heads, scale), out, lse);
}

void ReferenceBackend::query_attention_backward(Stream&, ConstTensorView dout, ConstTensorView q,
                                                ConstTensorView kv, ConstTensorView out, ConstTensorView lse,
                                                const Sequences& queries, const Sequences& keys,
                                                int64_t heads, float scale, TensorView dq, TensorView dkv) {
  check::query_attention(q, kv, queries, keys, heads, out, lse, false);
  check::query_attention(dq, dkv, queries, keys, heads, dout, {}, true);
  const HostSequences of_q(queries), of_kv(keys);
  check_keys(of_q, of_kv);
  const AttentionOperands operands = apart(q, kv, of_q, of_kv, heads, scale);
  const Gradients d = backward(operands, dout, out);
  set_columns(dq, 0, d.q);
  set_columns(dkv, 0, d.k);
  set_columns(dkv, operands.model, d.v);
}

void ReferenceBackend::attention_probabilities(Stream&, ConstTensorView qkv, const Sequences& sequences,
                                               int64_t heads, float scale, int64_t query, TensorView probs) {
  check::attention_probabilities(qkv, sequences, heads, query, probs);
  std::vector<double> p;
  for_each_head(packed(qkv, HostSequences(sequences), heads, scale), [&](int64_t s, const Head& head) {
    head.softmax_row(query, p);
    for (int64_t j = 0; j < head.keys; ++j)
      Writer(probs).set((s * heads + head.head) * head.keys + j, p[static_cast<size_t>(j)]);
  });
}

}  // namespace dino::ops
