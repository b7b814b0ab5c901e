// SPDX-License-Identifier: Apache-2.0
#pragma once
// The declarations that every backend repeats: all operators of ops.hpp, overridden.

#include "ops/ops.hpp"

#define DINO_OPS_OVERRIDES                                                                                   \
  void linear(Stream& stream, ConstTensorView x, ConstTensorView w, ConstTensorView b,                       \
              Activation activation, TensorView y, TensorView pre) override;                                 \
  void linear_backward_input(Stream& stream, ConstTensorView dy, ConstTensorView w, TensorView dx,           \
                             bool accumulate) override;                                                      \
  void linear_backward_weight(Stream& stream, ConstTensorView dy, ConstTensorView x, TensorView dw,          \
                              TensorView db) override;                                                       \
  void gelu_backward(Stream& stream, ConstTensorView dy, ConstTensorView pre, TensorView dx, TensorView db)  \
      override;                                                                                              \
  void quick_gelu_backward(Stream& stream, ConstTensorView dy, ConstTensorView pre, TensorView dx) override; \
  void swiglu(Stream& stream, ConstTensorView x, TensorView y) override;                                     \
  void swiglu_backward(Stream& stream, ConstTensorView dy, ConstTensorView x, TensorView dx) override;       \
  void scaled_index_add(Stream& stream, TensorView out, ConstTensorView branch, ConstTensorView gamma,       \
                        float scale, ConstTensorView rows) override;                                         \
  void scaled_index_add_backward(Stream& stream, ConstTensorView dout, ConstTensorView branch,               \
                                 ConstTensorView gamma, float scale, ConstTensorView rows,                   \
                                 TensorView dbranch, TensorView dgamma) override;                            \
  void gather_rows(Stream& stream, ConstTensorView x, ConstTensorView rows, TensorView out) override;        \
  void scatter_add_rows(Stream& stream, ConstTensorView x, ConstTensorView rows, TensorView out) override;   \
  void zero_rows(Stream& stream, TensorView x, ConstTensorView rows) override;                               \
  void sparse_rows(Stream& stream, const SparseRows& matrix, ConstTensorView x, TensorView out,              \
                   bool accumulate) override;                                                                \
  void convert(Stream& stream, ConstTensorView x, TensorView y) override;                                    \
  void axpy(Stream& stream, float a, ConstTensorView x, TensorView y) override;                              \
  void scale(Stream& stream, float a, ConstTensorView x, TensorView y) override;                             \
  void reciprocal(Stream& stream, ConstTensorView x, float of_zero, TensorView y) override;                  \
  void relu(Stream& stream, ConstTensorView x, TensorView y) override;                                       \
  void relu_backward(Stream& stream, ConstTensorView dy, ConstTensorView y, TensorView dx) override;         \
  void weighted_sum(Stream& stream, ConstTensorView x, ConstTensorView weight, double factor,                \
                    TensorView out) override;                                                                \
  void sum_of_squares(Stream& stream, ConstTensorView x, TensorView out) override;                           \
  void maximum(Stream& stream, ConstTensorView x, TensorView out) override;                                  \
  void all_finite(Stream& stream, ConstTensorView x, TensorView flag) override;                              \
  void layer_norm(Stream& stream, ConstTensorView x, ConstTensorView gamma, ConstTensorView beta, float eps, \
                  TensorView y, TensorView mean, TensorView rstd) override;                                  \
  void layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView x, ConstTensorView gamma,     \
                           ConstTensorView mean, ConstTensorView rstd, ConstTensorView rows, TensorView dx,  \
                           TensorView dgamma, TensorView dbeta) override;                                    \
  void gather_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView rows, ConstTensorView gamma,     \
                         ConstTensorView beta, float eps, TensorView gathered, TensorView y,                 \
                         TensorView mean, TensorView rstd) override;                                         \
  void residual_layer_norm(Stream& stream, ConstTensorView x, ConstTensorView branch,                        \
                           ConstTensorView layer_scale, ConstTensorView gamma, ConstTensorView beta,         \
                           float eps, TensorView sum, TensorView y, TensorView mean, TensorView rstd)        \
      override;                                                                                              \
  void residual_layer_norm_backward(Stream& stream, ConstTensorView dy, ConstTensorView sum,                 \
                                    ConstTensorView branch, ConstTensorView layer_scale,                     \
                                    ConstTensorView gamma, ConstTensorView mean, ConstTensorView rstd,       \
                                    TensorView dx, TensorView dbranch, TensorView d_layer_scale,             \
                                    TensorView dgamma, TensorView dbeta) override;                           \
  void l2_normalize(Stream& stream, ConstTensorView x, float eps, TensorView y, TensorView norm) override;   \
  void l2_normalize_backward(Stream& stream, ConstTensorView dy, ConstTensorView y, ConstTensorView norm,    \
                             float eps, TensorView dx) override;                                             \
  void weight_norm(Stream& stream, ConstTensorView g, ConstTensorView v, TensorView w) override;             \
  void weight_norm_backward(Stream& stream, ConstTensorView g, ConstTensorView v, ConstTensorView dw,        \
                            TensorView dg, TensorView dv) override;                                          \
  void attention(Stream& stream, ConstTensorView qkv, const Sequences& sequences, int64_t heads,             \
                 float scale, TensorView out, TensorView lse) override;                                      \
  void attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView qkv, ConstTensorView out,    \
                          ConstTensorView lse, const Sequences& sequences, int64_t heads, float scale,       \
                          TensorView dqkv) override;                                                         \
  void query_attention(Stream& stream, ConstTensorView q, ConstTensorView kv, const Sequences& queries,      \
                       const Sequences& keys, int64_t heads, float scale, TensorView out, TensorView lse)    \
      override;                                                                                              \
  void query_attention_backward(Stream& stream, ConstTensorView dout, ConstTensorView q, ConstTensorView kv, \
                                ConstTensorView out, ConstTensorView lse, const Sequences& queries,          \
                                const Sequences& keys, int64_t heads, float scale, TensorView dq,            \
                                TensorView dkv) override;                                                    \
  void attention_probabilities(Stream& stream, ConstTensorView qkv, const Sequences& sequences,              \
                               int64_t heads, float scale, int64_t query, TensorView probs) override;        \
  void patchify(Stream& stream, ConstTensorView images, int64_t patch, TensorView patches) override;         \
  void patchify_backward(Stream& stream, ConstTensorView dpatches, int64_t patch, TensorView dimages)        \
      override;                                                                                              \
  void augment_crops(Stream& stream, ConstTensorView pixels, ConstTensorView pictures,                       \
                     ConstTensorView crops, Resampling filter, const Normalisation& normalisation,           \
                     TensorView out) override;                                                               \
  void cross_entropy(Stream& stream, TensorView logits, ConstTensorView targets, float temperature,          \
                     ConstTensorView weight, TensorView loss) override;                                      \
  void exp_rows(Stream& stream, TensorView x, float temperature, TensorView maxima) override;                \
  void exp_relative(Stream& stream, TensorView x, ConstTensorView reference, float temperature) override;    \
  void weighted_column_sums(Stream& stream, ConstTensorView x, ConstTensorView weight, TensorView out)       \
      override;                                                                                              \
  void matrix_vector(Stream& stream, ConstTensorView x, ConstTensorView u, TensorView out) override;         \
  void scale_rows_columns(Stream& stream, TensorView x, ConstTensorView v, ConstTensorView u) override;      \
  void softmax_centred(Stream& stream, TensorView x, ConstTensorView centre, float temperature) override;    \
  void nearest_other(Stream& stream, ConstTensorView dots, int64_t first, TensorView index) override;        \
  void koleo(Stream& stream, ConstTensorView x, ConstTensorView neighbours, int64_t first, double weight,    \
             TensorView loss, TensorView dx) override;                                                       \
  void target_statistics(Stream& stream, ConstTensorView targets, TensorView sums, TensorView entropy)       \
      override;                                                                                              \
  void mean_target_statistics(Stream& stream, ConstTensorView sums, double rows, TensorView out) override;   \
  void mean_column_std(Stream& stream, ConstTensorView x, TensorView out) override;                          \
  void clip_factors(Stream& stream, ConstTensorView squares, double scale, double limit, TensorView factors) \
      override;                                                                                              \
  void adamw(Stream& stream, TensorView w, ConstTensorView gradient, TensorView m, TensorView v,             \
             const AdamW& settings, ConstTensorView factor, ConstTensorView apply, TensorView average)       \
      override;                                                                                              \
  void ema(Stream& stream, TensorView average, ConstTensorView value, float momentum, ConstTensorView apply) \
      override
