// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "ops/checks.hpp"
#include "ops/reference/reference.hpp"

namespace dino::ops {
namespace {

/// One head of one sequence inside the packed qkv [T, 3D].
struct Head {
  Reader qkv;
  int64_t begin, length, model, head, width;
  /// part: 0 = q, 1 = k, 2 = v.
  [[nodiscard]] int64_t index(int part, int64_t row, int64_t column) const {
    return (begin + row) * 3 * model + part * model + head * width + column;
  }
  [[nodiscard]] double score(int64_t i, int64_t j, double scale) const {
    double sum = 0;
    for (int64_t c = 0; c < width; ++c) sum += qkv[index(0, i, c)] * qkv[index(1, j, c)];
    return sum * scale;
  }
  /// softmax over the keys of query i; returns the log-sum-exp.
  double softmax_row(int64_t i, double scale, std::vector<double>& p) const {
    p.resize(static_cast<size_t>(length));
    for (int64_t j = 0; j < length; ++j) p[static_cast<size_t>(j)] = score(i, j, scale);
    const double top = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& value : p) sum += value = std::exp(value - top);
    for (double& value : p) value /= sum;
    return top + std::log(sum);
  }
};

template <class Function>
void for_each_head(ConstTensorView qkv, const Sequences& sequences, int64_t heads, Function&& function) {
  const int64_t model = qkv.dim(1) / 3;
  for (int64_t s = 0; s < sequences.count(); ++s)
    for (int64_t h = 0; h < heads; ++h)
      function(s, Head{Reader(qkv), sequences.starts[static_cast<size_t>(s)], sequences.length(s), model, h,
                       model / heads});
}

}  // namespace

void ReferenceBackend::attention(ConstTensorView qkv, const Sequences& sequences, int64_t heads, float scale,
                                 TensorView out, TensorView lse) {
  check::attention(qkv, sequences, heads, out, lse, true);
  std::vector<double> p;
  for_each_head(qkv, sequences, heads, [&](int64_t, const Head& head) {
    for (int64_t i = 0; i < head.length; ++i) {
      const double log_sum = head.softmax_row(i, static_cast<double>(scale), p);
      if (lse) Writer(lse).set(head.head * qkv.dim(0) + head.begin + i, log_sum);
      for (int64_t c = 0; c < head.width; ++c) {
        double sum = 0;
        for (int64_t j = 0; j < head.length; ++j)
          sum += p[static_cast<size_t>(j)] * head.qkv[head.index(2, j, c)];
        Writer(out).set((head.begin + i) * head.model + head.head * head.width + c, sum);
      }
    }
  });
}

void ReferenceBackend::attention_backward(ConstTensorView dout, ConstTensorView qkv, ConstTensorView out,
                                          ConstTensorView lse, const Sequences& sequences, int64_t heads,
                                          float scale, TensorView dqkv) {
  check::attention(qkv, sequences, heads, out, lse, false);
  check::attention(dqkv, sequences, heads, dout, {}, true);
  const Reader gradient(dout);
  const Writer result(dqkv);
  std::vector<double> p;
  for_each_head(qkv, sequences, heads, [&](int64_t, const Head& head) {
    const auto out_index = [&](int64_t i, int64_t c) {
      return (head.begin + i) * head.model + head.head * head.width + c;
    };
    const auto cells = static_cast<size_t>(head.length * head.width);
    std::vector<double> dq(cells), dk(cells), dv(cells);
    for (int64_t i = 0; i < head.length; ++i) {
      head.softmax_row(i, static_cast<double>(scale), p);
      double delta = 0;  // sum_c dout out = sum_j p dp
      for (int64_t c = 0; c < head.width; ++c)
        delta += gradient[out_index(i, c)] * Reader(out)[out_index(i, c)];
      for (int64_t j = 0; j < head.length; ++j) {
        const double pij = p[static_cast<size_t>(j)];
        double dp = 0;
        for (int64_t c = 0; c < head.width; ++c)
          dp += gradient[out_index(i, c)] * head.qkv[head.index(2, j, c)];
        const double ds = pij * (dp - delta) * static_cast<double>(scale);
        for (int64_t c = 0; c < head.width; ++c) {
          dq[static_cast<size_t>(i * head.width + c)] += ds * head.qkv[head.index(1, j, c)];
          dk[static_cast<size_t>(j * head.width + c)] += ds * head.qkv[head.index(0, i, c)];
          dv[static_cast<size_t>(j * head.width + c)] += pij * gradient[out_index(i, c)];
        }
      }
    }
    for (int64_t i = 0; i < head.length; ++i) {
      for (int64_t c = 0; c < head.width; ++c) {
        const auto cell = static_cast<size_t>(i * head.width + c);
        result.set(head.index(0, i, c), dq[cell]);
        result.set(head.index(1, i, c), dk[cell]);
        result.set(head.index(2, i, c), dv[cell]);
      }
    }
  });
}

void ReferenceBackend::attention_probabilities(ConstTensorView qkv, const Sequences& sequences, int64_t heads,
                                               float scale, int64_t query, TensorView probs) {
  check::attention(qkv, sequences, heads, {}, {}, true);
  check::vector(probs, heads * qkv.dim(0), false);
  std::vector<double> p;
  for_each_head(qkv, sequences, heads, [&](int64_t s, const Head& head) {
    DINO_CHECK(head.length == sequences.length(0) && query >= 0 && query < head.length,
               "one length for all sequences, and a query inside it");
    head.softmax_row(query, static_cast<double>(scale), p);
    for (int64_t j = 0; j < head.length; ++j)
      Writer(probs).set((s * heads + head.head) * head.length + j, p[static_cast<size_t>(j)]);
  });
}

}  // namespace dino::ops
