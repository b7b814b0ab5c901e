// SPDX-License-Identifier: Apache-2.0
// The two residual branches of a block, x += scale LayerScale(f(norm(x))), over all rows or over a kept
// subset, of which this rank may have no row (stochastic depth: model/drop_path.hpp).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/vit_parts.hpp"

namespace dino {
namespace {

/// Views of one block's parameters in a store (weights or gradients).
template <class Store>
struct BlockParameters {
  Store& store;
  std::string prefix;
  auto operator()(const char* name) const { return store.view(prefix + name); }
  /// Empty for a model without LayerScale.
  auto optional(const char* name) const {
    const ParameterInfo* info = store.layout().find_if(prefix + name);
    return info == nullptr ? decltype(store.view(*info)){} : store.view(*info);
  }
};

template <class Store>
BlockParameters<Store> of_block(const VitContext& context, int64_t block, Store& store) {
  return {store, fmt::format("{}.blocks.{}", context.module, block)};
}

ops::Sequences sequences_of(const BranchRows& rows) {
  return {rows.starts};
}

float attention_scale(const VitConfig& config) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.width / config.heads)));
}

/// The branch's input: x itself when nothing must outlive the residual addition, else a copy of its rows.
TensorView branch_input(TensorView x, const BranchRows& rows, Arena& arena, bool keep) {
  if (rows.all && !keep) return x;
  TensorView input = arena.make({rows.count, x.dim(1)});
  if (rows.all) {
    ops::backend().convert(x, input);
  } else {
    ops::backend().gather_rows(x, rows.rows, input);
  }
  return input;
}

void enter_branch(TensorView x, std::shared_ptr<const BranchRows> rows, Arena& arena, BranchSaved& saved,
                  bool keep) {
  saved.rows = std::move(rows);
  saved.input = branch_input(x, *saved.rows, arena, keep);
  if (keep) {
    saved.mean = arena.make({saved.rows->count});
    saved.rstd = arena.make({saved.rows->count});
  }
}

/// A branch that stochastic depth left no row of: nothing is added, and no gradient comes back.
bool is_left_out(const std::shared_ptr<const BranchRows>& rows, BranchSaved& saved) {
  saved.rows = rows;
  return rows->count == 0;
}

void begin_branch(const VitContext& context, TensorView x, std::shared_ptr<const BranchRows> rows,
                  Arena& arena, BranchSaved& saved, bool keep) {
  enter_branch(x, std::move(rows), arena, saved, keep);
  saved.out = arena.make({saved.rows->count, context.config.width}, context.act);
}

void add_branch(TensorView x, const BranchSaved& saved, ConstTensorView gamma) {
  const BranchRows& rows = *saved.rows;
  if (rows.all) {
    ops::backend().scaled_index_add(x, saved.out, gamma, 1.0F, {});
    return;
  }
  const std::span<const int64_t> all(rows.rows);
  for (const BranchRows::Part& part : rows.parts) {
    if (part.count == 0) continue;
    ops::backend().scaled_index_add(
        x, saved.out.rows(part.begin, part.count), gamma, part.scale,
        all.subspan(static_cast<size_t>(part.begin), static_cast<size_t>(part.count)));
  }
}

/// Gradient of the branch's output, act [n, D].
TensorView add_branch_backward(const VitContext& context, ConstTensorView dx, const BranchSaved& saved,
                               ConstTensorView gamma, TensorView d_gamma, Arena& arena) {
  const BranchRows& rows = *saved.rows;
  TensorView d_out = arena.make({rows.count, context.config.width}, context.act);
  if (rows.all) {
    ops::backend().scaled_index_add_backward(dx, saved.out, gamma, 1.0F, {}, d_out, d_gamma);
    return d_out;
  }
  const std::span<const int64_t> all(rows.rows);
  for (const BranchRows::Part& part : rows.parts) {
    if (part.count == 0) continue;
    ops::backend().scaled_index_add_backward(
        dx, saved.out.rows(part.begin, part.count), gamma, part.scale,
        all.subspan(static_cast<size_t>(part.begin), static_cast<size_t>(part.count)),
        d_out.rows(part.begin, part.count), d_gamma);
  }
  return d_out;
}

/// The normalised input again, act [n, D]: cheaper to make twice than to keep.
TensorView normalised(const VitContext& context, const BranchSaved& saved, ConstTensorView weight,
                      ConstTensorView bias, Arena& arena, bool with_statistics) {
  TensorView y = arena.make({saved.rows->count, context.config.width}, context.act);
  const auto eps = static_cast<float>(context.config.norm_eps);
  ops::backend().layer_norm(saved.input, weight, bias, eps, y, with_statistics ? saved.mean : TensorView{},
                            with_statistics ? saved.rstd : TensorView{});
  return y;
}

/// Adds the gradient through the norm, dy act [n, D], to the residual's gradient.
void finish_backward(const BranchSaved& saved, ConstTensorView dy, ConstTensorView weight,
                     TensorView d_weight, TensorView d_bias, TensorView dx, Arena& arena) {
  ops::Backend& ops = ops::backend();
  if (saved.rows->all) {
    ops.layer_norm_backward(dy, saved.input, weight, saved.mean, saved.rstd, dx, d_weight, d_bias);
    return;
  }
  TensorView d_input = arena.zeros({saved.rows->count, dx.dim(1)});
  ops.layer_norm_backward(dy, saved.input, weight, saved.mean, saved.rstd, d_input, d_weight, d_bias);
  ops.scatter_add_rows(d_input, saved.rows->rows, dx);
}

/// dy act [n, in] of a linear layer's input; adds its parameters' gradients.
TensorView linear_backward(ConstTensorView d_out, ConstTensorView input, ConstTensorView weight,
                           TensorView d_weight, TensorView d_bias, Arena& arena) {
  TensorView d_input = arena.make({input.dim(0), input.dim(1)}, input.dtype);
  ops::backend().linear_backward_weight(d_out, input, d_weight, d_bias);
  ops::backend().linear_backward_input(d_out, weight, d_input, false);
  return d_input;
}

}  // namespace

std::shared_ptr<const BranchRows> all_rows(std::span<const TokenEntry> entries) {
  auto rows = std::make_shared<BranchRows>();
  rows->starts.push_back(0);
  for (const TokenEntry& entry : entries)
    for (int64_t image = 0; image < entry.batch; ++image) rows->starts.push_back(rows->count += entry.tokens);
  return rows;
}

std::shared_ptr<const BranchRows> kept_rows(std::span<const TokenEntry> entries,
                                            std::span<const KeptRows> kept) {
  DINO_CHECK(kept.size() == entries.size(), "a stochastic depth plan has one list per entry");
  bool complete = true;
  for (size_t e = 0; e < entries.size(); ++e)
    complete =
        complete && kept[e].scale == 1 && static_cast<int64_t>(kept[e].rows.size()) == entries[e].batch;
  if (complete) return all_rows(entries);
  auto rows = std::make_shared<BranchRows>();
  rows->all = false;
  rows->starts.push_back(0);
  for (size_t e = 0; e < entries.size(); ++e) {
    const TokenEntry& entry = entries[e];
    rows->parts.push_back({rows->count, static_cast<int64_t>(kept[e].rows.size()) * entry.tokens,
                           static_cast<float>(kept[e].scale)});
    for (const int64_t image : kept[e].rows) {
      DINO_CHECK(image >= 0 && image < entry.batch, "a kept image of the stochastic depth plan");
      for (int64_t t = 0; t < entry.tokens; ++t) rows->rows.push_back(entry.cls_row(image) + t);
      rows->starts.push_back(rows->count += entry.tokens);
    }
  }
  return rows;
}

std::shared_ptr<const BranchRows> read_rows(const BranchRows& branch, std::span<const int64_t> read) {
  const auto is_read = [&](int64_t row) { return std::binary_search(read.begin(), read.end(), row); };
  const auto packed = [&](int64_t i) { return branch.all ? i : branch.rows[static_cast<size_t>(i)]; };
  int64_t spare = 0;  // unread rows that are taken along
  if (!branch.all) {
    const auto count = std::count_if(branch.rows.begin(), branch.rows.end(), is_read);
    const int64_t wanted = (count + kReadQuantum - 1) / kReadQuantum * kReadQuantum;
    spare = std::min(wanted, branch.count) - count;
  }
  auto result = std::make_shared<BranchRows>();
  result->all = false;
  result->starts.push_back(0);
  const std::vector<BranchRows::Part> whole{{0, branch.count, 1.0F}};
  size_t sequence = 0;
  for (const BranchRows::Part& part : branch.all ? whole : branch.parts) {
    const int64_t first = result->count;
    for (; sequence + 1 < branch.starts.size() && branch.starts[sequence] < part.begin + part.count;
         ++sequence) {
      for (int64_t i = branch.starts[sequence]; i < branch.starts[sequence + 1]; ++i) {
        const bool wanted = is_read(packed(i));
        if (!wanted && spare == 0) continue;
        if (!wanted) --spare;
        result->rows.push_back(packed(i));
      }
      result->starts.push_back(result->count = static_cast<int64_t>(result->rows.size()));
    }
    result->parts.push_back({first, result->count - first, part.scale});
  }
  return result;
}

void attention_forward(const VitContext& context, int64_t block, const ParameterStore& weights, TensorView x,
                       std::shared_ptr<const BranchRows> rows, Arena& arena, AttentionSaved& saved,
                       bool keep) {
  if (is_left_out(rows, saved)) return;
  const VitConfig& config = context.config;
  const auto w = of_block(context, block, weights);
  ops::Backend& ops = ops::backend();
  begin_branch(context, x, std::move(rows), arena, saved, keep);
  const int64_t n = saved.rows->count;
  saved.qkv = arena.make({n, 3 * config.width}, context.act);
  saved.attended = arena.make({n, config.width}, context.act);
  if (keep) saved.lse = arena.make({config.heads, n});
  {
    const Arena::Scope scope(arena);
    const TensorView y = normalised(context, saved, w(".norm1.weight"), w(".norm1.bias"), arena, keep);
    ops.linear(y, w(".attn.qkv.weight"), w(".attn.qkv.bias"), ops::Activation::none, saved.qkv, {});
  }
  ops.attention(saved.qkv, sequences_of(*saved.rows), config.heads, attention_scale(config), saved.attended,
                saved.lse);
  ops.linear(saved.attended, w(".attn.proj.weight"), w(".attn.proj.bias"), ops::Activation::none, saved.out,
             {});
  add_branch(x, saved, w.optional(".ls1.gamma"));
}

void attention_backward(const VitContext& context, int64_t block, const ParameterStore& weights,
                        const AttentionSaved& saved, TensorView dx, ParameterStore& gradients, Arena& arena) {
  if (saved.rows->count == 0) return;
  const VitConfig& config = context.config;
  const auto w = of_block(context, block, weights);
  const auto d = of_block(context, block, gradients);
  const Arena::Scope scope(arena);
  const TensorView d_out =
      add_branch_backward(context, dx, saved, w.optional(".ls1.gamma"), d.optional(".ls1.gamma"), arena);
  const TensorView d_attended = linear_backward(d_out, saved.attended, w(".attn.proj.weight"),
                                                d(".attn.proj.weight"), d(".attn.proj.bias"), arena);
  const TensorView d_qkv = arena.make({saved.rows->count, 3 * config.width}, context.act);
  ops::backend().attention_backward(d_attended, saved.qkv, saved.attended, saved.lse,
                                    sequences_of(*saved.rows), config.heads, attention_scale(config), d_qkv);
  const TensorView y = normalised(context, saved, w(".norm1.weight"), w(".norm1.bias"), arena, false);
  const TensorView dy =
      linear_backward(d_qkv, y, w(".attn.qkv.weight"), d(".attn.qkv.weight"), d(".attn.qkv.bias"), arena);
  finish_backward(saved, dy, w(".norm1.weight"), d(".norm1.weight"), d(".norm1.bias"), dx, arena);
}

void query_attention_forward(const VitContext& context, int64_t block, const ParameterStore& weights,
                             TensorView x, std::shared_ptr<const BranchRows> keys,
                             std::shared_ptr<const BranchRows> queries, Arena& arena,
                             QueryAttentionSaved& saved, bool keep) {
  if (is_left_out(queries, saved.queries)) return;
  const VitConfig& config = context.config;
  const int64_t width = config.width;
  const auto w = of_block(context, block, weights);
  ops::Backend& ops = ops::backend();
  enter_branch(x, std::move(keys), arena, saved.keys, keep);
  begin_branch(context, x, std::move(queries), arena, saved.queries, keep);
  const int64_t count = saved.queries.rows->count;
  saved.q = arena.make({count, width}, context.act);
  saved.kv = arena.make({saved.keys.rows->count, 2 * width}, context.act);
  saved.attended = arena.make({count, width}, context.act);
  if (keep) saved.lse = arena.make({config.heads, count});
  const ConstTensorView weight = w(".attn.qkv.weight"), bias = w(".attn.qkv.bias");
  const auto project = [&](const BranchSaved& branch, int64_t first, int64_t rows, TensorView out) {
    const Arena::Scope scope(arena);
    const TensorView y = normalised(context, branch, w(".norm1.weight"), w(".norm1.bias"), arena, keep);
    ops.linear(y, weight.rows(first, rows), bias.rows(first, rows), ops::Activation::none, out, {});
  };
  project(saved.queries, 0, width, saved.q);
  project(saved.keys, width, 2 * width, saved.kv);
  ops.query_attention(saved.q, saved.kv, sequences_of(*saved.queries.rows), sequences_of(*saved.keys.rows),
                      config.heads, attention_scale(config), saved.attended, saved.lse);
  ops.linear(saved.attended, w(".attn.proj.weight"), w(".attn.proj.bias"), ops::Activation::none,
             saved.queries.out, {});
  add_branch(x, saved.queries, w.optional(".ls1.gamma"));
}

void query_attention_backward(const VitContext& context, int64_t block, const ParameterStore& weights,
                              const QueryAttentionSaved& saved, TensorView dx, ParameterStore& gradients,
                              Arena& arena) {
  if (saved.queries.rows->count == 0) return;
  const VitConfig& config = context.config;
  const int64_t width = config.width;
  const auto w = of_block(context, block, weights);
  const auto d = of_block(context, block, gradients);
  const Arena::Scope scope(arena);
  const TensorView d_out = add_branch_backward(context, dx, saved.queries, w.optional(".ls1.gamma"),
                                               d.optional(".ls1.gamma"), arena);
  const TensorView d_attended = linear_backward(d_out, saved.attended, w(".attn.proj.weight"),
                                                d(".attn.proj.weight"), d(".attn.proj.bias"), arena);
  const TensorView dq = arena.make(saved.q.shape, context.act);
  const TensorView dkv = arena.make(saved.kv.shape, context.act);
  ops::backend().query_attention_backward(d_attended, saved.q, saved.kv, saved.attended, saved.lse,
                                          sequences_of(*saved.queries.rows), sequences_of(*saved.keys.rows),
                                          config.heads, attention_scale(config), dq, dkv);
  const auto project_backward = [&](const BranchSaved& branch, int64_t first, int64_t rows,
                                    ConstTensorView gradient) {
    const Arena::Scope inner(arena);
    const TensorView y = normalised(context, branch, w(".norm1.weight"), w(".norm1.bias"), arena, false);
    const TensorView dy = linear_backward(gradient, y, w(".attn.qkv.weight").rows(first, rows),
                                          d(".attn.qkv.weight").rows(first, rows),
                                          d(".attn.qkv.bias").rows(first, rows), arena);
    finish_backward(branch, dy, w(".norm1.weight"), d(".norm1.weight"), d(".norm1.bias"), dx, arena);
  };
  project_backward(saved.queries, 0, width, dq);
  project_backward(saved.keys, width, 2 * width, dkv);
}

void ffn_forward(const VitContext& context, int64_t block, const ParameterStore& weights, TensorView x,
                 std::shared_ptr<const BranchRows> rows, Arena& arena, FfnSaved& saved, bool keep) {
  if (is_left_out(rows, saved)) return;
  const VitConfig& config = context.config;
  const bool mlp = config.ffn == FfnKind::mlp;
  const auto w = of_block(context, block, weights);
  ops::Backend& ops = ops::backend();
  begin_branch(context, x, std::move(rows), arena, saved, keep);
  const int64_t n = saved.rows->count;
  if (keep || !mlp) saved.pre = arena.make({n, mlp ? config.hidden : 2 * config.hidden}, context.act);
  if (mlp) {
    saved.hidden = arena.make({n, config.hidden}, context.act);
    const Arena::Scope scope(arena);
    const TensorView y = normalised(context, saved, w(".norm2.weight"), w(".norm2.bias"), arena, keep);
    ops.linear(y, w(".mlp.fc1.weight"), w(".mlp.fc1.bias"), ops::Activation::gelu, saved.hidden, saved.pre);
    ops.linear(saved.hidden, w(".mlp.fc2.weight"), w(".mlp.fc2.bias"), ops::Activation::none, saved.out, {});
  } else {
    const Arena::Scope scope(arena);
    const TensorView y = normalised(context, saved, w(".norm2.weight"), w(".norm2.bias"), arena, keep);
    ops.linear(y, w(".mlp.w12.weight"), w(".mlp.w12.bias"), ops::Activation::none, saved.pre, {});
    const TensorView hidden = arena.make({n, config.hidden}, context.act);
    ops.swiglu(saved.pre, hidden);
    ops.linear(hidden, w(".mlp.w3.weight"), w(".mlp.w3.bias"), ops::Activation::none, saved.out, {});
  }
  add_branch(x, saved, w.optional(".ls2.gamma"));
}

void ffn_backward(const VitContext& context, int64_t block, const ParameterStore& weights,
                  const FfnSaved& saved, TensorView dx, ParameterStore& gradients, Arena& arena) {
  if (saved.rows->count == 0) return;
  const VitConfig& config = context.config;
  const bool mlp = config.ffn == FfnKind::mlp;
  const auto w = of_block(context, block, weights);
  const auto d = of_block(context, block, gradients);
  ops::Backend& ops = ops::backend();
  const Arena::Scope scope(arena);
  const TensorView d_out =
      add_branch_backward(context, dx, saved, w.optional(".ls2.gamma"), d.optional(".ls2.gamma"), arena);
  TensorView d_pre;
  if (mlp) {
    d_pre = linear_backward(d_out, saved.hidden, w(".mlp.fc2.weight"), d(".mlp.fc2.weight"),
                            d(".mlp.fc2.bias"), arena);
    ops.gelu_backward(d_pre, saved.pre, d_pre);
  } else {
    const TensorView hidden = arena.make({saved.rows->count, config.hidden}, context.act);
    ops.swiglu(saved.pre, hidden);
    const TensorView d_hidden =
        linear_backward(d_out, hidden, w(".mlp.w3.weight"), d(".mlp.w3.weight"), d(".mlp.w3.bias"), arena);
    d_pre = arena.make({saved.rows->count, 2 * config.hidden}, context.act);
    ops.swiglu_backward(d_hidden, saved.pre, d_pre);
  }
  const TensorView y = normalised(context, saved, w(".norm2.weight"), w(".norm2.bias"), arena, false);
  const char* weight = mlp ? ".mlp.fc1.weight" : ".mlp.w12.weight";
  const char* bias = mlp ? ".mlp.fc1.bias" : ".mlp.w12.bias";
  const TensorView dy = linear_backward(d_pre, y, w(weight), d(weight), d(bias), arena);
  finish_backward(saved, dy, w(".norm2.weight"), d(".norm2.weight"), d(".norm2.bias"), dx, arena);
}

}  // namespace dino
