// SPDX-License-Identifier: Apache-2.0
#pragma once
// The shapes and dtypes that each operator accepts, checked in one place for all backends. What lists and
// sequence starts hold can be looked at on the host alone: host.hpp.

#include "ops/ops.hpp"

namespace dino::ops::check {

void linear(ConstTensorView x, ConstTensorView w, ConstTensorView b, ConstTensorView y, ConstTensorView pre);
void linear_backward_input(ConstTensorView dy, ConstTensorView w, ConstTensorView dx);
void linear_backward_weight(ConstTensorView dy, ConstTensorView x, ConstTensorView dw, ConstTensorView db);
/// All are act tensors with as many elements as the first.
void same_act(std::initializer_list<ConstTensorView> tensors);
/// Tensors as of same_act; matrices where there is a `db` for their columns.
void gelu_backward(ConstTensorView dy, ConstTensorView pre, ConstTensorView dx, ConstTensorView db);
/// All are f32 with as many elements as the first.
void same_f32(std::initializer_list<ConstTensorView> tensors);
/// An f32 matrix.
void matrix(ConstTensorView x);
/// `wide` has twice the columns of `narrow`.
void swiglu(ConstTensorView wide, ConstTensorView narrow);
/// `big` is [R, D], `small` is [rows or R, D].
void indexed_rows(ConstTensorView big, ConstTensorView small, ConstTensorView rows, bool identity);
void zero_rows(ConstTensorView x, ConstTensorView rows);
void sparse_rows(const SparseRows& matrix, ConstTensorView x, ConstTensorView out);
/// A per-column vector: f32 with `columns` elements; may be empty if `optional`.
void vector(ConstTensorView v, int64_t columns, bool optional);
/// y is as large as what is normalised.
void layer_norm(ConstTensorView gamma, ConstTensorView beta, ConstTensorView y, ConstTensorView mean,
                ConstTensorView rstd);
void layer_norm_backward(ConstTensorView dy, ConstTensorView x, ConstTensorView gamma, ConstTensorView mean,
                         ConstTensorView rstd, ConstTensorView rows, ConstTensorView dx,
                         ConstTensorView dgamma, ConstTensorView dbeta);
/// What gather_layer_norm has besides layer_norm's.
void gathered(ConstTensorView x, ConstTensorView rows, ConstTensorView gathered, ConstTensorView y);
/// What residual_layer_norm has besides layer_norm's; y is for its dtype.
void residual(ConstTensorView x, ConstTensorView branch, ConstTensorView layer_scale, ConstTensorView sum,
              ConstTensorView y);
/// i64 with `count` elements.
void list(ConstTensorView v, int64_t count);
/// One element.
void scalar(ConstTensorView v, DType dtype);
void weight_norm(ConstTensorView g, ConstTensorView v, ConstTensorView w);
void weight_norm_backward(ConstTensorView g, ConstTensorView v, ConstTensorView dw, ConstTensorView dg,
                          ConstTensorView dv);
void attention(ConstTensorView qkv, const Sequences& sequences, int64_t heads, ConstTensorView out,
               ConstTensorView lse, bool lse_optional);
void query_attention(ConstTensorView q, ConstTensorView kv, const Sequences& queries, const Sequences& keys,
                     int64_t heads, ConstTensorView out, ConstTensorView lse, bool lse_optional);
void attention_probabilities(ConstTensorView qkv, const Sequences& sequences, int64_t heads, int64_t query,
                             ConstTensorView probs);
void patchify(ConstTensorView images, int64_t patch, ConstTensorView patches);
void augment_crops(ConstTensorView pixels, ConstTensorView pictures, ConstTensorView crops,
                   ConstTensorView out);
void nearest_other(ConstTensorView dots, int64_t first, ConstTensorView index);
void koleo(ConstTensorView x, ConstTensorView neighbours, int64_t first, ConstTensorView loss,
           ConstTensorView dx);
void target_statistics(ConstTensorView targets, ConstTensorView sums, ConstTensorView entropy);
void mean_target_statistics(ConstTensorView sums, ConstTensorView out);
void adamw(ConstTensorView w, ConstTensorView gradient, ConstTensorView m, ConstTensorView v,
           ConstTensorView factor, ConstTensorView apply, ConstTensorView average);
void clip_factors(ConstTensorView squares, double scale, double limit, ConstTensorView factors);

}  // namespace dino::ops::check
