// SPDX-License-Identifier: Apache-2.0
#include "mapped/backend.hpp"

#include <tuple>

#include "base/error.hpp"

namespace dino::testing {

using ops::Backend;

namespace {

template <class T>
concept OfTheDevice = requires(const MappedMemory& memory, const T& argument) {
  memory.open(argument);
};

/// Tensors are opened, settings pass.
template <class T>
T opened(const MappedMemory& memory, const T& argument) {
  if constexpr (OfTheDevice<T>)
    return memory.open(argument);
  else
    return argument;
}

}  // namespace

template <class... Parameters, class... Arguments>
void MappedBackend::run(Stream& stream, void (Backend::*op)(Stream&, Parameters...),
                        const Arguments&... arguments) {
  auto* queue = dynamic_cast<MappedStream*>(&stream);
  DINO_CHECK(queue != nullptr && &queue->memory() == &memory_, "a stream of another device");
  ((void)opened(memory_, arguments), ...);  // an error shows where it is made
  queue->enqueue([this, op, kept = std::tuple(arguments...)] {
    std::apply([&](const auto&... each) { (inner_.*op)(host_, opened(memory_, each)...); }, kept);
  });
}

void MappedBackend::linear(Stream& stream, ConstTensorView x, ConstTensorView w, ConstTensorView b,
                           Activation activation, TensorView y, TensorView pre) {
  run(stream, &Backend::linear, x, w, b, activation, y, pre);
}
void MappedBackend::linear_backward_input(Stream& stream, ConstTensorView dy, ConstTensorView w,
                                          TensorView dx, bool accumulate) {
  run(stream, &Backend::linear_backward_input, dy, w, dx, accumulate);
}
void MappedBackend::linear_backward_weight(Stream& stream, ConstTensorView dy, ConstTensorView x,
                                           TensorView dw, TensorView db) {
  run(stream, &Backend::linear_backward_weight, dy, x, dw, db);
}

void MappedBackend::gelu_backward(Stream& stream, ConstTensorView dy, ConstTensorView pre, TensorView dx) {
  run(stream, &Backend::gelu_backward, dy, pre, dx);
}
void MappedBackend::swiglu(Stream& stream, ConstTensorView x, TensorView y) {
  run(stream, &Backend::swiglu, x, y);
}
void MappedBackend::swiglu_backward(Stream& stream, ConstTensorView dy, ConstTensorView x, TensorView dx) {
  run(stream, &Backend::swiglu_backward, dy, x, dx);
}
void MappedBackend::scaled_index_add(Stream& stream, TensorView out, ConstTensorView branch,
                                     ConstTensorView gamma, float scale, ConstTensorView rows) {
  run(stream, &Backend::scaled_index_add, out, branch, gamma, scale, rows);
}
void MappedBackend::scaled_index_add_backward(Stream& stream, ConstTensorView dout, ConstTensorView branch,
                                              ConstTensorView gamma, float scale, ConstTensorView rows,
                                              TensorView dbranch, TensorView dgamma) {
  run(stream, &Backend::scaled_index_add_backward, dout, branch, gamma, scale, rows, dbranch, dgamma);
}
void MappedBackend::gather_rows(Stream& stream, ConstTensorView x, ConstTensorView rows, TensorView out) {
  run(stream, &Backend::gather_rows, x, rows, out);
}
void MappedBackend::scatter_add_rows(Stream& stream, ConstTensorView x, ConstTensorView rows,
                                     TensorView out) {
  run(stream, &Backend::scatter_add_rows, x, rows, out);
}
void MappedBackend::zero_rows(Stream& stream, TensorView x, ConstTensorView rows) {
  run(stream, &Backend::zero_rows, x, rows);
}
void MappedBackend::sparse_rows(Stream& stream, const SparseRows& matrix, ConstTensorView x, TensorView out,
                                bool accumulate) {
  run(stream, &Backend::sparse_rows, matrix, x, out, accumulate);
}
void MappedBackend::convert(Stream& stream, ConstTensorView x, TensorView y) {
  run(stream, &Backend::convert, x, y);
}
void MappedBackend::axpy(Stream& stream, float a, ConstTensorView x, TensorView y) {
  run(stream, &Backend::axpy, a, x, y);
}
void MappedBackend::scale(Stream& stream, float a, ConstTensorView x, TensorView y) {
  run(stream, &Backend::scale, a, x, y);
}
void MappedBackend::reciprocal(Stream& stream, ConstTensorView x, float of_zero, TensorView y) {
  run(stream, &Backend::reciprocal, x, of_zero, y);
}

void MappedBackend::weighted_sum(Stream& stream, ConstTensorView x, ConstTensorView weight, double factor,
                                 TensorView out) {
  run(stream, &Backend::weighted_sum, x, weight, factor, out);
}
void MappedBackend::sum_of_squares(Stream& stream, ConstTensorView x, TensorView out) {
  run(stream, &Backend::sum_of_squares, x, out);
}
void MappedBackend::maximum(Stream& stream, ConstTensorView x, TensorView out) {
  run(stream, &Backend::maximum, x, out);
}
void MappedBackend::all_finite(Stream& stream, ConstTensorView x, TensorView flag) {
  run(stream, &Backend::all_finite, x, flag);
}

void MappedBackend::layer_norm(Stream& stream, ConstTensorView x, ConstTensorView gamma, ConstTensorView beta,
                               float eps, TensorView y, TensorView mean, TensorView rstd) {
  run(stream, &Backend::layer_norm, x, gamma, beta, eps, y, mean, rstd);
}
void MappedBackend::layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView x,
                                        ConstTensorView gamma, ConstTensorView mean, ConstTensorView rstd,
                                        TensorView dx, TensorView dgamma, TensorView dbeta) {
  run(stream, &Backend::layer_norm_backward, dy, x, gamma, mean, rstd, dx, dgamma, dbeta);
}
void MappedBackend::l2_normalize(Stream& stream, ConstTensorView x, float eps, TensorView y,
                                 TensorView norm) {
  run(stream, &Backend::l2_normalize, x, eps, y, norm);
}
void MappedBackend::l2_normalize_backward(Stream& stream, ConstTensorView dy, ConstTensorView y,
                                          ConstTensorView norm, float eps, TensorView dx) {
  run(stream, &Backend::l2_normalize_backward, dy, y, norm, eps, dx);
}
void MappedBackend::weight_norm(Stream& stream, ConstTensorView g, ConstTensorView v, TensorView w) {
  run(stream, &Backend::weight_norm, g, v, w);
}
void MappedBackend::weight_norm_backward(Stream& stream, ConstTensorView g, ConstTensorView v,
                                         ConstTensorView dw, TensorView dg, TensorView dv) {
  run(stream, &Backend::weight_norm_backward, g, v, dw, dg, dv);
}

void MappedBackend::attention(Stream& stream, ConstTensorView qkv, const Sequences& sequences, int64_t heads,
                              float scale, TensorView out, TensorView lse) {
  run(stream, &Backend::attention, qkv, sequences, heads, scale, out, lse);
}
void MappedBackend::attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView qkv,
                                       ConstTensorView out, ConstTensorView lse, const Sequences& sequences,
                                       int64_t heads, float scale, TensorView dqkv) {
  run(stream, &Backend::attention_backward, dout, qkv, out, lse, sequences, heads, scale, dqkv);
}
void MappedBackend::query_attention(Stream& stream, ConstTensorView q, ConstTensorView kv,
                                    const Sequences& queries, const Sequences& keys, int64_t heads,
                                    float scale, TensorView out, TensorView lse) {
  run(stream, &Backend::query_attention, q, kv, queries, keys, heads, scale, out, lse);
}
void MappedBackend::query_attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView q,
                                             ConstTensorView kv, ConstTensorView out, ConstTensorView lse,
                                             const Sequences& queries, const Sequences& keys, int64_t heads,
                                             float scale, TensorView dq, TensorView dkv) {
  run(stream, &Backend::query_attention_backward, dout, q, kv, out, lse, queries, keys, heads, scale, dq,
      dkv);
}
void MappedBackend::attention_probabilities(Stream& stream, ConstTensorView qkv, const Sequences& sequences,
                                            int64_t heads, float scale, int64_t query, TensorView probs) {
  run(stream, &Backend::attention_probabilities, qkv, sequences, heads, scale, query, probs);
}

void MappedBackend::patchify(Stream& stream, ConstTensorView images, int64_t patch, TensorView patches) {
  run(stream, &Backend::patchify, images, patch, patches);
}
void MappedBackend::patchify_backward(Stream& stream, ConstTensorView dpatches, int64_t patch,
                                      TensorView dimages) {
  run(stream, &Backend::patchify_backward, dpatches, patch, dimages);
}

void MappedBackend::cross_entropy(Stream& stream, TensorView logits, ConstTensorView targets,
                                  float temperature, ConstTensorView weight, TensorView loss) {
  run(stream, &Backend::cross_entropy, logits, targets, temperature, weight, loss);
}
void MappedBackend::exp_rows(Stream& stream, TensorView x, float temperature, TensorView maxima) {
  run(stream, &Backend::exp_rows, x, temperature, maxima);
}
void MappedBackend::exp_relative(Stream& stream, TensorView x, ConstTensorView reference, float temperature) {
  run(stream, &Backend::exp_relative, x, reference, temperature);
}
void MappedBackend::weighted_column_sums(Stream& stream, ConstTensorView x, ConstTensorView weight,
                                         TensorView out) {
  run(stream, &Backend::weighted_column_sums, x, weight, out);
}
void MappedBackend::matrix_vector(Stream& stream, ConstTensorView x, ConstTensorView u, TensorView out) {
  run(stream, &Backend::matrix_vector, x, u, out);
}
void MappedBackend::scale_rows_columns(Stream& stream, TensorView x, ConstTensorView v, ConstTensorView u) {
  run(stream, &Backend::scale_rows_columns, x, v, u);
}
void MappedBackend::softmax_centred(Stream& stream, TensorView x, ConstTensorView centre, float temperature) {
  run(stream, &Backend::softmax_centred, x, centre, temperature);
}
void MappedBackend::nearest_other(Stream& stream, ConstTensorView dots, int64_t first, TensorView index) {
  run(stream, &Backend::nearest_other, dots, first, index);
}
void MappedBackend::koleo(Stream& stream, ConstTensorView x, ConstTensorView neighbours, int64_t first,
                          double weight, TensorView loss, TensorView dx) {
  run(stream, &Backend::koleo, x, neighbours, first, weight, loss, dx);
}

void MappedBackend::target_statistics(Stream& stream, ConstTensorView targets, TensorView sums,
                                      TensorView entropy) {
  run(stream, &Backend::target_statistics, targets, sums, entropy);
}
void MappedBackend::mean_target_statistics(Stream& stream, ConstTensorView sums, double rows,
                                           TensorView out) {
  run(stream, &Backend::mean_target_statistics, sums, rows, out);
}
void MappedBackend::mean_column_std(Stream& stream, ConstTensorView x, TensorView out) {
  run(stream, &Backend::mean_column_std, x, out);
}

void MappedBackend::clip_factors(Stream& stream, ConstTensorView squares, double scale, double limit,
                                 TensorView factors) {
  run(stream, &Backend::clip_factors, squares, scale, limit, factors);
}
void MappedBackend::adamw(Stream& stream, TensorView w, ConstTensorView gradient, TensorView m, TensorView v,
                          const AdamW& settings, ConstTensorView factor, ConstTensorView apply) {
  run(stream, &Backend::adamw, w, gradient, m, v, settings, factor, apply);
}
void MappedBackend::ema(Stream& stream, TensorView average, ConstTensorView value, float momentum,
                        ConstTensorView apply) {
  run(stream, &Backend::ema, average, value, momentum, apply);
}

}  // namespace dino::testing
