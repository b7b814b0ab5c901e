// SPDX-License-Identifier: Apache-2.0
#include "ops/checks.hpp"

#include "imaging/crop_steps.hpp"

namespace dino::ops::check {
namespace {

void is_act(ConstTensorView x) {
  DINO_CHECK(x.dtype == DType::f32 || x.dtype == DType::bf16 || x.dtype == DType::f16,
             std::string("an activation is f32, bf16 or f16, not ") + name_of(x.dtype));
}

void is_matrix(ConstTensorView x, int64_t rows, int64_t columns) {
  const Shape wanted{rows, columns};
  DINO_CHECK(x.shape == wanted, x.shape.str() + " where " + wanted.str());
}

int64_t columns_of(ConstTensorView x) {
  DINO_CHECK(x.shape.rank() == 2, "a matrix, not " + x.shape.str());
  return x.dim(1);
}

void holds(ConstTensorView x, DType dtype, int64_t count) {
  DINO_CHECK(x, "a tensor is missing");
  DINO_CHECK(x.dtype == dtype, std::string(name_of(dtype)) + ", not " + name_of(x.dtype));
  DINO_CHECK(x.numel() == count, x.shape.str() + " where " + std::to_string(count) + " elements");
}

}  // namespace

void vector(ConstTensorView v, int64_t columns, bool optional) {
  if (!v && (optional || columns == 0)) return;
  DINO_CHECK(v.dtype == DType::f32, std::string("a parameter vector is f32, not ") + name_of(v.dtype));
  DINO_CHECK(v.numel() == columns, v.shape.str() + " where " + std::to_string(columns) + " elements");
}

namespace {

void weight_of(ConstTensorView x, ConstTensorView w) {
  DINO_CHECK(w.dtype == DType::f32 || w.dtype == x.dtype,
             std::string("a weight is f32 or of the activations' dtype, not ") + name_of(w.dtype));
}

}  // namespace

void linear(ConstTensorView x, ConstTensorView w, ConstTensorView b, ConstTensorView y, ConstTensorView pre) {
  const int64_t k = columns_of(x);
  const int64_t n = columns_of(y);
  is_act(x);
  is_act(y);
  is_matrix(w, n, k);
  is_matrix(y, x.dim(0), n);
  weight_of(x, w);
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
  weight_of(dy, w);
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

void gelu_backward(ConstTensorView dy, ConstTensorView pre, ConstTensorView dx, ConstTensorView db) {
  same_act({dy, pre, dx});
  if (db) vector(db, columns_of(dx), false);
}

void swiglu(ConstTensorView wide, ConstTensorView narrow) {
  is_act(wide);
  is_act(narrow);
  is_matrix(wide, narrow.dim(0), 2 * columns_of(narrow));
}

void matrix(ConstTensorView x) {
  (void)columns_of(x);
  same_f32({x});
}

void list(ConstTensorView v, int64_t count) {
  holds(v, DType::i64, count);
}

void scalar(ConstTensorView v, DType dtype) {
  holds(v, dtype, 1);
}

void indexed_rows(ConstTensorView big, ConstTensorView small, ConstTensorView rows, bool identity) {
  is_act(big);
  is_act(small);
  DINO_CHECK(rows || identity, "a list of rows is missing");
  if (rows) list(rows, rows.numel());
  is_matrix(small, rows ? rows.numel() : big.dim(0), columns_of(big));
}

void layer_norm(ConstTensorView gamma, ConstTensorView beta, ConstTensorView y, ConstTensorView mean,
                ConstTensorView rstd) {
  is_act(y);
  const int64_t d = columns_of(y);
  vector(gamma, d, false);
  vector(beta, d, false);
  vector(mean, y.dim(0), true);
  vector(rstd, y.dim(0), true);
}

void layer_norm_backward(ConstTensorView dy, ConstTensorView x, ConstTensorView gamma, ConstTensorView mean,
                         ConstTensorView rstd, ConstTensorView rows, ConstTensorView dx,
                         ConstTensorView dgamma, ConstTensorView dbeta) {
  same_f32({x});
  same_f32({dx});
  same_act({x, dy});
  indexed_rows(dx, x, rows, true);
  const int64_t d = columns_of(x);
  for (const ConstTensorView& v : {gamma, dgamma, dbeta}) vector(v, d, false);
  vector(mean, x.dim(0), false);
  vector(rstd, x.dim(0), false);
}

void gathered(ConstTensorView x, ConstTensorView rows, ConstTensorView gathered, ConstTensorView y) {
  same_f32({x});
  indexed_rows(x, y, rows, false);
  if (!gathered) return;
  same_f32({gathered});
  same_act({gathered, y});
}

void residual(ConstTensorView x, ConstTensorView branch, ConstTensorView layer_scale, ConstTensorView sum,
              ConstTensorView y) {
  same_f32({x, sum});
  same_act({branch, sum, y});
  DINO_CHECK(branch.dtype == y.dtype,
             std::string("a branch of ") + name_of(y.dtype) + ", not " + name_of(branch.dtype));
  vector(layer_scale, columns_of(sum), true);
}

void zero_rows(ConstTensorView x, ConstTensorView rows) {
  is_act(x);
  (void)columns_of(x);
  list(rows, rows.numel());
}

void sparse_rows(const SparseRows& matrix, ConstTensorView x, ConstTensorView out) {
  const int64_t entries = matrix.columns.numel();
  check::matrix(x);
  check::matrix(out);
  is_matrix(out, out.dim(0), x.dim(1));
  list(matrix.starts, out.dim(0) + 1);
  if (entries > 0) list(matrix.columns, entries);
  vector(matrix.weights, entries, false);
}

void weight_norm(ConstTensorView g, ConstTensorView v, ConstTensorView w) {
  matrix(v);
  is_act(w);
  is_matrix(w, v.dim(0), v.dim(1));
  vector(g, v.dim(0), false);
}

void weight_norm_backward(ConstTensorView g, ConstTensorView v, ConstTensorView dw, ConstTensorView dg,
                          ConstTensorView dv) {
  weight_norm(g, v, dw);
  weight_norm(dg, v, dv);
  same_f32({dw, dv});
}

namespace {

void attention_heads(int64_t width, int64_t heads) {
  DINO_CHECK(heads > 0 && width % heads == 0,
             "width " + std::to_string(width) + " for " + std::to_string(heads) + " heads");
}

void attention_sequences(const Sequences& sequences, ConstTensorView x) {
  DINO_CHECK(sequences.starts && sequences.starts.dtype == DType::i64 && sequences.count() >= 0,
             "sequence starts are i64 [count + 1]");
  DINO_CHECK(sequences.rows == x.dim(0),
             "sequences of " + std::to_string(sequences.rows) + " rows do not cover " + x.shape.str());
  DINO_CHECK(sequences.longest >= 0 && sequences.longest <= sequences.rows &&
                 sequences.longest * sequences.count() >= sequences.rows,
             "the longest sequence has " + std::to_string(sequences.longest) + " rows");
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
  DINO_CHECK(!queries.causal && !keys.causal, "queries of their own attend to all keys");
  DINO_CHECK(queries.count() == keys.count(), "queries and keys of the same sequences");
  DINO_CHECK(q.dtype == kv.dtype && out.dtype == q.dtype, "attention's inputs and output have one dtype");
  is_matrix(out, q.dim(0), width);
  vector(lse, heads * q.dim(0), lse_optional);
}

void attention_probabilities(ConstTensorView qkv, const Sequences& sequences, int64_t heads, int64_t query,
                             ConstTensorView probs) {
  attention(qkv, sequences, heads, {}, {}, true);
  DINO_CHECK(!sequences.causal, "probabilities are over all rows of a sequence");
  vector(probs, heads * qkv.dim(0), false);
  DINO_CHECK(sequences.count() * sequences.longest == sequences.rows &&
                 (sequences.count() == 0 || (query >= 0 && query < sequences.longest)),
             "one length for all sequences, and a query inside it");
}

void patchify(ConstTensorView images, int64_t patch, ConstTensorView patches) {
  DINO_CHECK(images.shape.rank() == 4 && images.dtype == DType::f32, "images are f32 [B,C,H,W]");
  DINO_CHECK(patch > 0 && images.dim(2) % patch == 0 && images.dim(3) % patch == 0,
             images.shape.str() + " in patches of " + std::to_string(patch));
  is_act(patches);
  is_matrix(patches, images.dim(0) * (images.dim(2) / patch) * (images.dim(3) / patch),
            images.dim(1) * patch * patch);
}

void augment_crops(ConstTensorView pixels, ConstTensorView pictures, ConstTensorView crops,
                   ConstTensorView out) {
  constexpr int64_t kMostSide = 2048;
  constexpr auto kBytes = static_cast<int64_t>(sizeof(CropSteps));
  holds(pixels, DType::u8, pixels.numel());
  holds(pictures, DType::i64, pictures.numel());
  is_matrix(pictures, pictures.dim(0), 3);
  DINO_CHECK(out.shape.rank() == 4 && out.dtype == DType::f32 && out.dim(1) == 3 && out.dim(2) == out.dim(3),
             "crops are f32 [C,3,S,S]");
  DINO_CHECK(out.dim(2) > 0 && out.dim(2) <= kMostSide,
             "a crop of " + std::to_string(out.dim(2)) + " pixels");
  holds(crops, DType::u8, out.dim(0) * kBytes);
  DINO_CHECK(reinterpret_cast<uintptr_t>(crops.data) % alignof(CropSteps) == 0, "unaligned steps");
}

void nearest_other(ConstTensorView dots, int64_t first, ConstTensorView index) {
  matrix(dots);
  DINO_CHECK(dots.dim(1) >= 2, "a row has no other");
  DINO_CHECK(first >= 0 && first + dots.dim(0) <= dots.dim(1),
             "rows from " + std::to_string(first) + " on in " + dots.shape.str());
  list(index, dots.dim(0));
}

void koleo(ConstTensorView x, ConstTensorView neighbours, int64_t first, ConstTensorView loss,
           ConstTensorView dx) {
  matrix(x);
  matrix(dx);
  is_matrix(dx, dx.dim(0), x.dim(1));
  DINO_CHECK(first >= 0 && first + dx.dim(0) <= x.dim(0),
             dx.shape.str() + " from row " + std::to_string(first) + " on of " + x.shape.str());
  list(neighbours, x.dim(0));
  scalar(loss, DType::f64);
}

void target_statistics(ConstTensorView targets, ConstTensorView sums, ConstTensorView entropy) {
  matrix(targets);
  vector(sums, 2 * targets.dim(1), false);
  scalar(entropy, DType::f64);
}

void mean_target_statistics(ConstTensorView sums, ConstTensorView out) {
  same_f32({sums});
  DINO_CHECK(sums.numel() % 2 == 0, "sums and counts of as many columns, not " + sums.shape.str());
  holds(out, DType::f64, 2);
}

void adamw(ConstTensorView w, ConstTensorView gradient, ConstTensorView m, ConstTensorView v,
           ConstTensorView factor, ConstTensorView apply, ConstTensorView average) {
  same_f32({w, gradient, m, v});
  if (average) same_f32({w, average});
  scalar(factor, DType::f32);
  scalar(apply, DType::f32);
}

void clip_factors(ConstTensorView squares, double scale, double limit, ConstTensorView factors) {
  holds(squares, DType::f64, squares.numel());
  vector(factors, squares.numel(), false);
  DINO_CHECK(scale > 0, "a scale of " + std::to_string(scale));
  DINO_CHECK(limit >= 0, "a limit of " + std::to_string(limit));
}

}  // namespace dino::ops::check
