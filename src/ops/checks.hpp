// SPDX-License-Identifier: Apache-2.0
#pragma once
// The shapes and dtypes that each operator accepts, checked in one place for all backends.

#include "ops/ops.hpp"

namespace dino::ops::check {

void linear(ConstTensorView x, ConstTensorView w, ConstTensorView b, ConstTensorView y, ConstTensorView pre);
void linear_backward_input(ConstTensorView dy, ConstTensorView w, ConstTensorView dx);
void linear_backward_weight(ConstTensorView dy, ConstTensorView x, ConstTensorView dw, ConstTensorView db);
/// All are act tensors with as many elements as the first.
void same_act(std::initializer_list<ConstTensorView> tensors);
/// All are f32 with as many elements as the first.
void same_f32(std::initializer_list<ConstTensorView> tensors);
/// `wide` has twice the columns of `narrow`.
void swiglu(ConstTensorView wide, ConstTensorView narrow);
/// `big` is [R, D], `small` is [rows or R, D]; every row index is inside `big`.
void indexed_rows(ConstTensorView big, ConstTensorView small, std::span<const int64_t> rows, bool identity);
/// A per-column vector: f32 with `columns` elements; may be empty if `optional`.
void vector(ConstTensorView v, int64_t columns, bool optional);
void attention(ConstTensorView qkv, const Sequences& sequences, int64_t heads, ConstTensorView out,
               ConstTensorView lse, bool lse_optional);
void query_attention(ConstTensorView q, ConstTensorView kv, const Sequences& queries, const Sequences& keys,
                     int64_t heads, ConstTensorView out, ConstTensorView lse, bool lse_optional);
void patchify(ConstTensorView images, int64_t patch, ConstTensorView patches);

}  // namespace dino::ops::check
