// SPDX-License-Identifier: Apache-2.0
#pragma once
// A backend that hands every operator on in one place: to a queue, a list, another backend.

#include "ops/ops.hpp"

namespace dino::ops {

/// `Derived` has, public or to its friend:
///   template <class... Parameters, class... Arguments>
///   void run(Stream&, void (Backend::*op)(Stream&, Parameters...), const Arguments&...);
template <class Derived>
class ForwardingBackend : public Backend {
 public:
  void linear(Stream& stream, ConstTensorView x, ConstTensorView w, ConstTensorView b, Activation activation,
              TensorView y, TensorView pre) override {
    self().run(stream, &Backend::linear, x, w, b, activation, y, pre);
  }
  void linear_backward_input(Stream& stream, ConstTensorView dy, ConstTensorView w, TensorView dx,
                             bool accumulate) override {
    self().run(stream, &Backend::linear_backward_input, dy, w, dx, accumulate);
  }
  void linear_backward_weight(Stream& stream, ConstTensorView dy, ConstTensorView x, TensorView dw,
                              TensorView db) override {
    self().run(stream, &Backend::linear_backward_weight, dy, x, dw, db);
  }

  void gelu_backward(Stream& stream, ConstTensorView dy, ConstTensorView pre, TensorView dx,
                     TensorView db) override {
    self().run(stream, &Backend::gelu_backward, dy, pre, dx, db);
  }
  void quick_gelu_backward(Stream& stream, ConstTensorView dy, ConstTensorView pre, TensorView dx) override {
    self().run(stream, &Backend::quick_gelu_backward, dy, pre, dx);
  }
  void swiglu(Stream& stream, ConstTensorView x, TensorView y) override {
    self().run(stream, &Backend::swiglu, x, y);
  }
  void swiglu_backward(Stream& stream, ConstTensorView dy, ConstTensorView x, TensorView dx) override {
    self().run(stream, &Backend::swiglu_backward, dy, x, dx);
  }
  void scaled_index_add(Stream& stream, TensorView out, ConstTensorView branch, ConstTensorView gamma,
                        float scale, ConstTensorView rows) override {
    self().run(stream, &Backend::scaled_index_add, out, branch, gamma, scale, rows);
  }
  void scaled_index_add_backward(Stream& stream, ConstTensorView dout, ConstTensorView branch,
                                 ConstTensorView gamma, float scale, ConstTensorView rows, TensorView dbranch,
                                 TensorView dgamma) override {
    self().run(stream, &Backend::scaled_index_add_backward, dout, branch, gamma, scale, rows, dbranch,
               dgamma);
  }
  void gather_rows(Stream& stream, ConstTensorView x, ConstTensorView rows, TensorView out) override {
    self().run(stream, &Backend::gather_rows, x, rows, out);
  }
  void scatter_add_rows(Stream& stream, ConstTensorView x, ConstTensorView rows, TensorView out) override {
    self().run(stream, &Backend::scatter_add_rows, x, rows, out);
  }
  void zero_rows(Stream& stream, TensorView x, ConstTensorView rows) override {
    self().run(stream, &Backend::zero_rows, x, rows);
  }
  void sparse_rows(Stream& stream, const SparseRows& matrix, ConstTensorView x, TensorView out,
                   bool accumulate) override {
    self().run(stream, &Backend::sparse_rows, matrix, x, out, accumulate);
  }
  void convert(Stream& stream, ConstTensorView x, TensorView y) override {
    self().run(stream, &Backend::convert, x, y);
  }
  void axpy(Stream& stream, float a, ConstTensorView x, TensorView y) override {
    self().run(stream, &Backend::axpy, a, x, y);
  }
  void scale(Stream& stream, float a, ConstTensorView x, TensorView y) override {
    self().run(stream, &Backend::scale, a, x, y);
  }
  void reciprocal(Stream& stream, ConstTensorView x, float of_zero, TensorView y) override {
    self().run(stream, &Backend::reciprocal, x, of_zero, y);
  }
  void relu(Stream& stream, ConstTensorView x, TensorView y) override {
    self().run(stream, &Backend::relu, x, y);
  }
  void relu_backward(Stream& stream, ConstTensorView dy, ConstTensorView y, TensorView dx) override {
    self().run(stream, &Backend::relu_backward, dy, y, dx);
  }

  void weighted_sum(Stream& stream, ConstTensorView x, ConstTensorView weight, double factor,
                    TensorView out) override {
    self().run(stream, &Backend::weighted_sum, x, weight, factor, out);
  }
  void sum_of_squares(Stream& stream, ConstTensorView x, TensorView out) override {
    self().run(stream, &Backend::sum_of_squares, x, out);
  }
  void maximum(Stream& stream, ConstTensorView x, TensorView out) override {
    self().run(stream, &Backend::maximum, x, out);
  }
  void all_finite(Stream& stream, ConstTensorView x, TensorView flag) override {
    self().run(stream, &Backend::all_finite, x, flag);
  }

  void layer_norm(Stream& stream, ConstTensorView x, ConstTensorView gamma, ConstTensorView beta, float eps,
                  TensorView y, TensorView mean, TensorView rstd) override {
    self().run(stream, &Backend::layer_norm, x, gamma, beta, eps, y, mean, rstd);
  }
  void layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView x, ConstTensorView gamma,
                           ConstTensorView mean, ConstTensorView rstd, ConstTensorView rows, TensorView dx,
                           TensorView dgamma, TensorView dbeta) override {
    self().run(stream, &Backend::layer_norm_backward, dy, x, gamma, mean, rstd, rows, dx, dgamma, dbeta);
  }
  void gather_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView rows, ConstTensorView gamma,
                         ConstTensorView beta, float eps, TensorView gathered, TensorView y, TensorView mean,
                         TensorView rstd) override {
    self().run(stream, &Backend::gather_layer_norm, x, rows, gamma, beta, eps, gathered, y, mean, rstd);
  }
  void residual_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView branch,
                           ConstTensorView layer_scale, ConstTensorView gamma, ConstTensorView beta,
                           float eps, TensorView sum, TensorView y, TensorView mean,
                           TensorView rstd) override {
    self().run(stream, &Backend::residual_layer_norm, x, branch, layer_scale, gamma, beta, eps, sum, y, mean,
               rstd);
  }
  void residual_layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView sum,
                                    ConstTensorView branch, ConstTensorView layer_scale,
                                    ConstTensorView gamma, ConstTensorView mean, ConstTensorView rstd,
                                    TensorView dx, TensorView dbranch, TensorView d_layer_scale,
                                    TensorView dgamma, TensorView dbeta) override {
    self().run(stream, &Backend::residual_layer_norm_backward, dy, sum, branch, layer_scale, gamma, mean,
               rstd, dx, dbranch, d_layer_scale, dgamma, dbeta);
  }
  void l2_normalize(Stream& stream, ConstTensorView x, float eps, TensorView y, TensorView norm) override {
    self().run(stream, &Backend::l2_normalize, x, eps, y, norm);
  }
  void l2_normalize_backward(Stream& stream, ConstTensorView dy, ConstTensorView y, ConstTensorView norm,
                             float eps, TensorView dx) override {
    self().run(stream, &Backend::l2_normalize_backward, dy, y, norm, eps, dx);
  }
  void weight_norm(Stream& stream, ConstTensorView g, ConstTensorView v, TensorView w) override {
    self().run(stream, &Backend::weight_norm, g, v, w);
  }
  void weight_norm_backward(Stream& stream, ConstTensorView g, ConstTensorView v, ConstTensorView dw,
                            TensorView dg, TensorView dv) override {
    self().run(stream, &Backend::weight_norm_backward, g, v, dw, dg, dv);
  }

  void attention(Stream& stream, ConstTensorView qkv, const Sequences& sequences, int64_t heads, float scale,
                 TensorView out, TensorView lse) override {
    self().run(stream, &Backend::attention, qkv, sequences, heads, scale, out, lse);
  }
  void attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView qkv, ConstTensorView out,
                          ConstTensorView lse, const Sequences& sequences, int64_t heads, float scale,
                          TensorView dqkv) override {
    self().run(stream, &Backend::attention_backward, dout, qkv, out, lse, sequences, heads, scale, dqkv);
  }
  void query_attention(Stream& stream, ConstTensorView q, ConstTensorView kv, const Sequences& queries,
                       const Sequences& keys, int64_t heads, float scale, TensorView out,
                       TensorView lse) override {
    self().run(stream, &Backend::query_attention, q, kv, queries, keys, heads, scale, out, lse);
  }
  void query_attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView q, ConstTensorView kv,
                                ConstTensorView out, ConstTensorView lse, const Sequences& queries,
                                const Sequences& keys, int64_t heads, float scale, TensorView dq,
                                TensorView dkv) override {
    self().run(stream, &Backend::query_attention_backward, dout, q, kv, out, lse, queries, keys, heads, scale,
               dq, dkv);
  }
  void attention_probabilities(Stream& stream, ConstTensorView qkv, const Sequences& sequences, int64_t heads,
                               float scale, int64_t query, TensorView probs) override {
    self().run(stream, &Backend::attention_probabilities, qkv, sequences, heads, scale, query, probs);
  }

  void patchify(Stream& stream, ConstTensorView images, int64_t patch, TensorView patches) override {
    self().run(stream, &Backend::patchify, images, patch, patches);
  }
  void patchify_backward(Stream& stream, ConstTensorView dpatches, int64_t patch,
                         TensorView dimages) override {
    self().run(stream, &Backend::patchify_backward, dpatches, patch, dimages);
  }

  void augment_crops(Stream& stream, ConstTensorView pixels, ConstTensorView pictures, ConstTensorView crops,
                     Resampling filter, const Normalisation& normalisation, TensorView out) override {
    self().run(stream, &Backend::augment_crops, pixels, pictures, crops, filter, normalisation, out);
  }

  void cross_entropy(Stream& stream, TensorView logits, ConstTensorView targets, float temperature,
                     ConstTensorView weight, TensorView loss) override {
    self().run(stream, &Backend::cross_entropy, logits, targets, temperature, weight, loss);
  }
  void exp_rows(Stream& stream, TensorView x, float temperature, TensorView maxima) override {
    self().run(stream, &Backend::exp_rows, x, temperature, maxima);
  }
  void exp_relative(Stream& stream, TensorView x, ConstTensorView reference, float temperature) override {
    self().run(stream, &Backend::exp_relative, x, reference, temperature);
  }
  void weighted_column_sums(Stream& stream, ConstTensorView x, ConstTensorView weight,
                            TensorView out) override {
    self().run(stream, &Backend::weighted_column_sums, x, weight, out);
  }
  void matrix_vector(Stream& stream, ConstTensorView x, ConstTensorView u, TensorView out) override {
    self().run(stream, &Backend::matrix_vector, x, u, out);
  }
  void scale_rows_columns(Stream& stream, TensorView x, ConstTensorView v, ConstTensorView u) override {
    self().run(stream, &Backend::scale_rows_columns, x, v, u);
  }
  void softmax_centred(Stream& stream, TensorView x, ConstTensorView centre, float temperature) override {
    self().run(stream, &Backend::softmax_centred, x, centre, temperature);
  }
  void nearest_other(Stream& stream, ConstTensorView dots, int64_t first, TensorView index) override {
    self().run(stream, &Backend::nearest_other, dots, first, index);
  }
  void koleo(Stream& stream, ConstTensorView x, ConstTensorView neighbours, int64_t first, double weight,
             TensorView loss, TensorView dx) override {
    self().run(stream, &Backend::koleo, x, neighbours, first, weight, loss, dx);
  }

  void target_statistics(Stream& stream, ConstTensorView targets, TensorView sums,
                         TensorView entropy) override {
    self().run(stream, &Backend::target_statistics, targets, sums, entropy);
  }
  void mean_target_statistics(Stream& stream, ConstTensorView sums, double rows, TensorView out) override {
    self().run(stream, &Backend::mean_target_statistics, sums, rows, out);
  }
  void mean_column_std(Stream& stream, ConstTensorView x, TensorView out) override {
    self().run(stream, &Backend::mean_column_std, x, out);
  }

  void clip_factors(Stream& stream, ConstTensorView squares, double scale, double limit,
                    TensorView factors) override {
    self().run(stream, &Backend::clip_factors, squares, scale, limit, factors);
  }
  void adamw(Stream& stream, TensorView w, ConstTensorView gradient, TensorView m, TensorView v,
             const AdamW& settings, ConstTensorView factor, ConstTensorView apply,
             TensorView average) override {
    self().run(stream, &Backend::adamw, w, gradient, m, v, settings, factor, apply, average);
  }
  void ema(Stream& stream, TensorView average, ConstTensorView value, float momentum,
           ConstTensorView apply) override {
    self().run(stream, &Backend::ema, average, value, momentum, apply);
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }
};

}  // namespace dino::ops
