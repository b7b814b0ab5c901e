// SPDX-License-Identifier: Apache-2.0
#include "ops/checks.hpp"

namespace dino::ops::check {
namespace {

void is_act(ConstTensorView x) {
  DINO_CHECK(x.dtype == DType::f32 || x.dtype == DType::bf16,
             std::string("an activation is f32 or bf16, not ") + name_of(x.dtype));
}

void is_matrix(ConstTensorView x, int64_t rows, int64_t columns) {
  const Shape wanted{rows, columns};
  DINO_CHECK(x.shape == wanted, x.shape.str() + " where " + wanted.str());
}

int64_t columns_of(ConstTensorView x) {
  DINO_CHECK(x.shape.rank() == 2, "a matrix, not " + x.shape.str());
  return x.dim(1);
}

}  // namespace

void vector(ConstTensorView v, int64_t columns, bool optional) {
  if (!v && (optional || columns == 0)) return;
  DINO_CHECK(v.dtype == DType::f32, std::string("a parameter vector is f32, not ") + name_of(v.dtype));
  DINO_CHECK(v.numel() == columns, v.shape.str() + " where " + std::to_string(columns) + " elements");
}

void linear(ConstTensorView x, ConstTensorView w, ConstTensorView b, ConstTensorView y, ConstTensorView pre) {
  const int64_t k = columns_of(x);
  const int64_t n = columns_of(y);
  is_act(x);
  is_act(y);
  is_matrix(w, n, k);
  is_matrix(y, x.dim(0), n);
  DINO_CHECK(w.dtype == DType::f32, "weights are f32");
  vector(b, n, true);
  if (pre) {
    is_act(pre);
    is_matrix(pre, x.dim(0), n);
  }
}

void linear_backward_input(ConstTensorView dy, ConstTensorView w, ConstTensorView dx) {
  is_act(dy);
  is_act(dx);
  is_matrix(w, columns_of(dy), columns_of(dx));
  is_matrix(dx, dy.dim(0), dx.dim(1));
  DINO_CHECK(w.dtype == DType::f32, "weights are f32");
}

void linear_backward_weight(ConstTensorView dy, ConstTensorView x, ConstTensorView dw, ConstTensorView db) {
  is_act(dy);
  is_act(x);
  is_matrix(dw, columns_of(dy), columns_of(x));
  is_matrix(x, dy.dim(0), x.dim(1));
  DINO_CHECK(dw.dtype == DType::f32, "weight gradients are f32");
  DINO_CHECK(dy.dtype == x.dtype, "dy and x have one dtype");
  vector(db, dy.dim(1), true);
}

void same_act(std::initializer_list<ConstTensorView> tensors) {
  for (const ConstTensorView& t : tensors) {
    is_act(t);
    DINO_CHECK(t.shape.numel() == tensors.begin()->shape.numel(),
               t.shape.str() + " and " + tensors.begin()->shape.str());
  }
}

void same_f32(std::initializer_list<ConstTensorView> tensors) {
  for (const ConstTensorView& t : tensors) {
    DINO_CHECK(t.dtype == DType::f32, std::string("f32, not ") + name_of(t.dtype));
    DINO_CHECK(t.shape.numel() == tensors.begin()->shape.numel(),
               t.shape.str() + " and " + tensors.begin()->shape.str());
  }
}

void swiglu(ConstTensorView wide, ConstTensorView narrow) {
  is_act(wide);
  is_act(narrow);
  is_matrix(wide, narrow.dim(0), 2 * columns_of(narrow));
}

void indexed_rows(ConstTensorView big, ConstTensorView small, std::span<const int64_t> rows, bool identity) {
  is_act(big);
  is_act(small);
  const int64_t count = rows.empty() && identity ? big.dim(0) : static_cast<int64_t>(rows.size());
  is_matrix(small, count, columns_of(big));
  for (const int64_t row : rows)
    DINO_CHECK(row >= 0 && row < big.dim(0), "row " + std::to_string(row) + " of " + big.shape.str());
}

namespace {

void attention_heads(int64_t width, int64_t heads) {
  DINO_CHECK(heads > 0 && width % heads == 0,
             "width " + std::to_string(width) + " for " + std::to_string(heads) + " heads");
}

void attention_sequences(const Sequences& sequences, ConstTensorView x) {
  DINO_CHECK(!sequences.starts.empty() && sequences.starts.front() == 0 && sequences.rows() == x.dim(0),
             "sequence starts do not cover " + x.shape.str());
  for (int64_t s = 0; s < sequences.count(); ++s)
    DINO_CHECK(sequences.length(s) >= 0, "sequence starts descend");
}

}  // namespace

void attention(ConstTensorView qkv, const Sequences& sequences, int64_t heads, ConstTensorView out,
               ConstTensorView lse, bool lse_optional) {
  const int64_t width = columns_of(qkv) / 3;
  is_act(qkv);
  DINO_CHECK(columns_of(qkv) == 3 * width, "q, k and v of one width, not " + qkv.shape.str());
  attention_heads(width, heads);
  attention_sequences(sequences, qkv);
  if (out) {
    DINO_CHECK(out.dtype == qkv.dtype, "attention's input and output have one dtype");
    is_matrix(out, qkv.dim(0), width);
  }
  vector(lse, heads * qkv.dim(0), lse_optional);
}

void query_attention(ConstTensorView q, ConstTensorView kv, const Sequences& queries, const Sequences& keys,
                     int64_t heads, ConstTensorView out, ConstTensorView lse, bool lse_optional) {
  const int64_t width = columns_of(q);
  is_act(q);
  is_matrix(kv, kv.dim(0), 2 * width);
  attention_heads(width, heads);
  attention_sequences(queries, q);
  attention_sequences(keys, kv);
  DINO_CHECK(queries.count() == keys.count(), "queries and keys of the same sequences");
  for (int64_t s = 0; s < keys.count(); ++s)
    DINO_CHECK(queries.length(s) == 0 || keys.length(s) > 0, "a query without keys");
  DINO_CHECK(q.dtype == kv.dtype && out.dtype == q.dtype, "attention's inputs and output have one dtype");
  is_matrix(out, q.dim(0), width);
  vector(lse, heads * q.dim(0), lse_optional);
}

void patchify(ConstTensorView images, int64_t patch, ConstTensorView patches) {
  DINO_CHECK(images.shape.rank() == 4 && images.dtype == DType::f32, "images are f32 [B,C,H,W]");
  DINO_CHECK(patch > 0 && images.dim(2) % patch == 0 && images.dim(3) % patch == 0,
             images.shape.str() + " in patches of " + std::to_string(patch));
  is_act(patches);
  is_matrix(patches, images.dim(0) * (images.dim(2) / patch) * (images.dim(3) / patch),
            images.dim(1) * patch * patch);
}

}  // namespace dino::ops::check
