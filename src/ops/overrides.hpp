// SPDX-License-Identifier: Apache-2.0
#pragma once
// The declarations that every backend repeats: all operators of ops.hpp, overridden.

#include "ops/ops.hpp"

#define DINO_OPS_OVERRIDES                                                                                   \
  void linear(ConstTensorView x, ConstTensorView w, ConstTensorView b, Activation activation, TensorView y,  \
              TensorView pre) override;                                                                      \
  void linear_backward_input(ConstTensorView dy, ConstTensorView w, TensorView dx, bool accumulate)          \
      override;                                                                                              \
  void linear_backward_weight(ConstTensorView dy, ConstTensorView x, TensorView dw, TensorView db) override; \
  void gelu_backward(ConstTensorView dy, ConstTensorView pre, TensorView dx) override;                       \
  void swiglu(ConstTensorView x, TensorView y) override;                                                     \
  void swiglu_backward(ConstTensorView dy, ConstTensorView x, TensorView dx) override;                       \
  void scaled_index_add(TensorView out, ConstTensorView branch, ConstTensorView gamma, float scale,          \
                        std::span<const int64_t> rows) override;                                             \
  void scaled_index_add_backward(ConstTensorView dout, ConstTensorView branch, ConstTensorView gamma,        \
                                 float scale, std::span<const int64_t> rows, TensorView dbranch,             \
                                 TensorView dgamma) override;                                                \
  void gather_rows(ConstTensorView x, std::span<const int64_t> rows, TensorView out) override;               \
  void scatter_add_rows(ConstTensorView x, std::span<const int64_t> rows, TensorView out) override;          \
  void convert(ConstTensorView x, TensorView y) override;                                                    \
  void axpy(float a, ConstTensorView x, TensorView y) override;                                              \
  void layer_norm(ConstTensorView x, ConstTensorView gamma, ConstTensorView beta, float eps, TensorView y,   \
                  TensorView mean, TensorView rstd) override;                                                \
  void layer_norm_backward(ConstTensorView dy, ConstTensorView x, ConstTensorView gamma,                     \
                           ConstTensorView mean, ConstTensorView rstd, TensorView dx, TensorView dgamma,     \
                           TensorView dbeta) override;                                                       \
  void l2_normalize(ConstTensorView x, float eps, TensorView y, TensorView norm) override;                   \
  void l2_normalize_backward(ConstTensorView dy, ConstTensorView y, ConstTensorView norm, float eps,         \
                             TensorView dx) override;                                                        \
  void attention(ConstTensorView qkv, const Sequences& sequences, int64_t heads, float scale,                \
                 TensorView out, TensorView lse) override;                                                   \
  void attention_backward(ConstTensorView dout, ConstTensorView qkv, ConstTensorView out,                    \
                          ConstTensorView lse, const Sequences& sequences, int64_t heads, float scale,       \
                          TensorView dqkv) override;                                                         \
  void query_attention(ConstTensorView q, ConstTensorView kv, const Sequences& queries,                      \
                       const Sequences& keys, int64_t heads, float scale, TensorView out, TensorView lse)    \
      override;                                                                                              \
  void query_attention_backward(ConstTensorView dout, ConstTensorView q, ConstTensorView kv,                 \
                                ConstTensorView out, ConstTensorView lse, const Sequences& queries,          \
                                const Sequences& keys, int64_t heads, float scale, TensorView dq,            \
                                TensorView dkv) override;                                                    \
  void attention_probabilities(ConstTensorView qkv, const Sequences& sequences, int64_t heads, float scale,  \
                               int64_t query, TensorView probs) override;                                    \
  void patchify(ConstTensorView images, int64_t patch, TensorView patches) override;                         \
  void patchify_backward(ConstTensorView dpatches, int64_t patch, TensorView dimages) override;              \
  void cross_entropy(TensorView logits, ConstTensorView targets, float temperature, ConstTensorView weight,  \
                     TensorView loss) override;                                                              \
  void exp_scaled(TensorView x, float shift, float temperature) override;                                    \
  void weighted_column_sums(ConstTensorView x, ConstTensorView weight, TensorView out) override;             \
  void matrix_vector(ConstTensorView x, ConstTensorView u, TensorView out) override;                         \
  void scale_rows_columns(TensorView x, ConstTensorView v, ConstTensorView u) override;                      \
  void softmax_centred(TensorView x, ConstTensorView centre, float temperature) override;                    \
  void adamw(std::span<float> w, std::span<const float> gradient, std::span<float> m, std::span<float> v,    \
             const AdamW& settings) override;                                                                \
  void ema(std::span<float> average, std::span<const float> value, float momentum) override;                 \
  double sum_of_squares(std::span<const float> x) override
