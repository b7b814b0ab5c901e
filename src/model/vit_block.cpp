// SPDX-License-Identifier: Apache-2.0
// The two residual branches of a block, x += scale LayerScale(f(norm(x))), over all rows or over a kept
// subset, of which this rank may have no row (stochastic depth: model/drop_path.hpp).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/vit_parts.hpp"

namespace dino {
namespace {

float attention_scale(const VitConfig& config) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.width / config.heads)));
}

/// A branch that stochastic depth left no row of: nothing is added, and no gradient comes back.
bool is_left_out(const std::shared_ptr<const BranchRows>& rows, BranchSaved& saved) {
  saved.rows = rows;
  return rows->count == 0;
}

void make_statistics(const Context& c, BranchSaved& saved) {
  saved.mean = c.arena.make({saved.rows->count});
  saved.rstd = c.arena.make({saved.rows->count});
}

/// Makes what outlives a branch. Without `keep` the rows of a subset are kept nowhere.
void begin_branch(const VitContext& vit, const Context& c, Residual& x,
                  std::shared_ptr<const BranchRows> rows, BranchSaved& saved, bool keep) {
  saved.rows = std::move(rows);
  const bool all = saved.rows->all;
  const Shape shape{saved.rows->count, vit.config.width};
  if (!all) (void)x.settled(c);
  saved.input = all ? x.next(c) : keep ? c.arena.make(shape) : TensorView{};
  if (keep) make_statistics(c, saved);
  saved.out = all && x.out() ? x.out() : c.arena.make(shape, c.act());
}

/// The normalised input of a branch that begins, act [n, D].
TensorView enter_branch(const VitContext& vit, const Context& c, Residual& x, const BranchSaved& saved,
                        ConstTensorView weight, ConstTensorView bias) {
  TensorView y = c.arena.make({saved.rows->count, vit.config.width}, c.act());
  const auto eps = static_cast<float>(vit.config.norm_eps);
  if (saved.rows->all)
    x.enter(c, weight, bias, eps, saved.input, y, saved.mean, saved.rstd);
  else
    c.ops.gather_layer_norm(c.stream, x.settled(c), saved.rows->device_rows, weight, bias, eps, saved.input,
                            y, saved.mean, saved.rstd);
  return y;
}

void add_branch(const Context& c, Residual& x, const BranchSaved& saved, ConstTensorView gamma) {
  const BranchRows& rows = *saved.rows;
  if (rows.all) {
    x.add(c, saved.out, gamma);
    return;
  }
  for (const BranchRows::Part& part : rows.parts) {
    if (part.count == 0) continue;
    c.ops.scaled_index_add(c.stream, x.settled(c), saved.out.rows(part.begin, part.count), gamma, part.scale,
                           rows.device_rows.rows(part.begin, part.count));
  }
}

/// Gradient of the branch's output, act [n, D], in `d_out` where that is given.
TensorView add_branch_backward(const VitContext& vit, const Context& c, ConstTensorView dx,
                               const BranchSaved& saved, ConstTensorView gamma, TensorView d_gamma,
                               TensorView d_out = {}) {
  const BranchRows& rows = *saved.rows;
  if (!d_out) d_out = c.arena.make({rows.count, vit.config.width}, c.act());
  if (rows.all) {
    c.ops.scaled_index_add_backward(c.stream, dx, saved.out, gamma, 1.0F, {}, d_out, d_gamma);
    return d_out;
  }
  for (const BranchRows::Part& part : rows.parts) {
    if (part.count == 0) continue;
    c.ops.scaled_index_add_backward(c.stream, dx, saved.out.rows(part.begin, part.count), gamma, part.scale,
                                    rows.device_rows.rows(part.begin, part.count),
                                    d_out.rows(part.begin, part.count), d_gamma);
  }
  return d_out;
}

/// The normalised input again, act [n, D]: cheaper to make twice than to keep.
TensorView normalised(const VitContext& vit, const Context& c, const BranchSaved& saved,
                      ConstTensorView weight, ConstTensorView bias) {
  TensorView y = c.arena.make({saved.rows->count, vit.config.width}, c.act());
  const auto eps = static_cast<float>(vit.config.norm_eps);
  c.ops.layer_norm(c.stream, saved.input, weight, bias, eps, y, {}, {});
  return y;
}

/// Adds the gradient through the norm, dy act [n, D], to the residual's gradient.
void finish_backward(const Context& c, const BranchSaved& saved, ConstTensorView dy, ConstTensorView weight,
                     TensorView d_weight, TensorView d_bias, TensorView dx) {
  c.ops.layer_norm_backward(c.stream, dy, saved.input, weight, saved.mean, saved.rstd,
                            saved.rows->device_rows, dx, d_weight, d_bias);
}

/// dy act [n, in] of a linear layer's input; adds its parameters' gradients.
TensorView linear_backward(const Context& c, ConstTensorView d_out, ConstTensorView input,
                           ConstTensorView weight, TensorView d_weight, TensorView d_bias) {
  TensorView d_input = c.arena.make({input.dim(0), input.dim(1)}, input.dtype);
  c.ops.linear_backward_weight(c.stream, d_out, input, d_weight, d_bias);
  c.ops.linear_backward_input(c.stream, d_out, weight, d_input, false);
  return d_input;
}

/// The keys of attention for few queries: all rows are copied where they are kept, because the queries' are
/// added to.
void begin_keys(const VitContext& vit, const Context& c, Residual& x, std::shared_ptr<const BranchRows> rows,
                BranchSaved& saved, bool keep) {
  saved.rows = std::move(rows);
  const TensorView tokens = x.settled(c);
  saved.input = saved.rows->all ? tokens : TensorView{};
  if (!keep) return;
  saved.input = c.arena.make({saved.rows->count, vit.config.width});
  if (saved.rows->all) c.ops.convert(c.stream, tokens, saved.input);
  make_statistics(c, saved);
}

/// Their normalised input, act [n, D].
TensorView enter_keys(const VitContext& vit, const Context& c, Residual& x, const BranchSaved& saved,
                      ConstTensorView weight, ConstTensorView bias) {
  if (!saved.rows->all) return enter_branch(vit, c, x, saved, weight, bias);
  TensorView y = c.arena.make({saved.rows->count, vit.config.width}, c.act());
  c.ops.layer_norm(c.stream, saved.input, weight, bias, static_cast<float>(vit.config.norm_eps), y,
                   saved.mean, saved.rstd);
  return y;
}

}  // namespace

ops::Sequences BranchRows::sequences() const {
  return {device_starts, count, longest, causal};
}

namespace {

std::shared_ptr<const BranchRows> uploaded(const Context& c, const std::shared_ptr<BranchRows>& rows) {
  for (size_t s = 1; s < rows->starts.size(); ++s)
    rows->longest = std::max(rows->longest, rows->starts[s] - rows->starts[s - 1]);
  rows->device_starts = c.arena.upload(c.stream, std::span<const int64_t>(rows->starts));
  if (!rows->all) rows->device_rows = c.arena.upload(c.stream, std::span<const int64_t>(rows->rows));
  return rows;
}

}  // namespace

std::shared_ptr<const BranchRows> all_rows(const Context& c, std::span<const TokenEntry> entries,
                                           bool causal) {
  auto rows = std::make_shared<BranchRows>();
  rows->causal = causal;
  rows->starts.push_back(0);
  for (const TokenEntry& entry : entries)
    for (int64_t image = 0; image < entry.batch; ++image) rows->starts.push_back(rows->count += entry.tokens);
  return uploaded(c, rows);
}

std::shared_ptr<const BranchRows> kept_rows(const Context& c, std::span<const TokenEntry> entries,
                                            std::span<const KeptRows> kept) {
  DINO_CHECK(kept.size() == entries.size(), "a stochastic depth plan has one list per entry");
  bool complete = true;
  for (size_t e = 0; e < entries.size(); ++e)
    complete =
        complete && kept[e].scale == 1 && static_cast<int64_t>(kept[e].rows.size()) == entries[e].batch;
  if (complete) return all_rows(c, entries);
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
  return uploaded(c, rows);
}

std::shared_ptr<const BranchRows> read_rows(const Context& c, const BranchRows& branch,
                                            std::span<const int64_t> read) {
  std::vector<uint8_t> marks(read.empty() ? 0 : static_cast<size_t>(read.back()) + 1);
  for (const int64_t row : read) marks[static_cast<size_t>(row)] = 1;
  const auto is_read = [&](int64_t row) {
    return row < static_cast<int64_t>(marks.size()) && marks[static_cast<size_t>(row)] != 0;
  };
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
  return uploaded(c, result);
}

void attention_forward(const VitContext& vit, const Context& c, const UnitView& w, Residual& x,
                       std::shared_ptr<const BranchRows> rows, AttentionSaved& saved, bool keep) {
  if (is_left_out(rows, saved)) return;
  const VitConfig& config = vit.config;
  const BlockPlaces& at = vit.block;
  begin_branch(vit, c, x, std::move(rows), saved, keep);
  const int64_t n = saved.rows->count;
  saved.qkv = c.arena.make({n, 3 * config.width}, c.act());
  saved.attended = c.arena.make({n, config.width}, c.act());
  if (keep) saved.lse = c.arena.make({config.heads, n});
  {
    const Arena::Scope scope(c.arena);
    const TensorView y = enter_branch(vit, c, x, saved, w(at.norm1.weight), w(at.norm1.bias));
    c.ops.linear(c.stream, y, w(at.qkv_weight), w(at.qkv_bias), ops::Activation::none, saved.qkv, {});
  }
  c.ops.attention(c.stream, saved.qkv, saved.rows->sequences(), config.heads, attention_scale(config),
                  saved.attended, saved.lse);
  c.ops.linear(c.stream, saved.attended, w(at.proj_weight), w(at.proj_bias), ops::Activation::none, saved.out,
               {});
  add_branch(c, x, saved, w(at.gamma1));
}

void attention_backward(const VitContext& vit, const Context& c, const UnitView& w,
                        const AttentionSaved& saved, TensorView dx, const UnitGradient& d,
                        TensorView d_made) {
  if (saved.rows->count == 0) return;
  const VitConfig& config = vit.config;
  const BlockPlaces& at = vit.block;
  const Arena::Scope scope(c.arena);
  const TensorView d_out =
      d_made ? d_made : add_branch_backward(vit, c, dx, saved, w(at.gamma1), d(at.gamma1));
  const TensorView d_attended =
      linear_backward(c, d_out, saved.attended, w(at.proj_weight), d(at.proj_weight), d(at.proj_bias));
  const TensorView d_qkv = c.arena.make({saved.rows->count, 3 * config.width}, c.act());
  c.ops.attention_backward(c.stream, d_attended, saved.qkv, saved.attended, saved.lse,
                           saved.rows->sequences(), config.heads, attention_scale(config), d_qkv);
  const TensorView y = normalised(vit, c, saved, w(at.norm1.weight), w(at.norm1.bias));
  const TensorView dy = linear_backward(c, d_qkv, y, w(at.qkv_weight), d(at.qkv_weight), d(at.qkv_bias));
  finish_backward(c, saved, dy, w(at.norm1.weight), d(at.norm1.weight), d(at.norm1.bias), dx);
}

void query_attention_forward(const VitContext& vit, const Context& c, const UnitView& w, Residual& x,
                             std::shared_ptr<const BranchRows> keys,
                             std::shared_ptr<const BranchRows> queries, QueryAttentionSaved& saved,
                             bool keep) {
  if (is_left_out(queries, saved.queries)) return;
  const VitConfig& config = vit.config;
  const BlockPlaces& at = vit.block;
  const int64_t width = config.width;
  begin_keys(vit, c, x, std::move(keys), saved.keys, keep);
  begin_branch(vit, c, x, std::move(queries), saved.queries, keep);
  const int64_t count = saved.queries.rows->count;
  saved.q = c.arena.make({count, width}, c.act());
  saved.kv = c.arena.make({saved.keys.rows->count, 2 * width}, c.act());
  saved.attended = c.arena.make({count, width}, c.act());
  if (keep) saved.lse = c.arena.make({config.heads, count});
  const ConstTensorView weight = w(at.qkv_weight), bias = w(at.qkv_bias);
  const auto project = [&](const BranchSaved& branch, int64_t first, int64_t rows, TensorView out) {
    const Arena::Scope scope(c.arena);
    const TensorView y = enter_keys(vit, c, x, branch, w(at.norm1.weight), w(at.norm1.bias));
    c.ops.linear(c.stream, y, weight.rows(first, rows), bias.rows(first, rows), ops::Activation::none, out,
                 {});
  };
  project(saved.queries, 0, width, saved.q);
  project(saved.keys, width, 2 * width, saved.kv);
  c.ops.query_attention(c.stream, saved.q, saved.kv, saved.queries.rows->sequences(),
                        saved.keys.rows->sequences(), config.heads, attention_scale(config), saved.attended,
                        saved.lse);
  c.ops.linear(c.stream, saved.attended, w(at.proj_weight), w(at.proj_bias), ops::Activation::none,
               saved.queries.out, {});
  add_branch(c, x, saved.queries, w(at.gamma1));
}

void query_attention_backward(const VitContext& vit, const Context& c, const UnitView& w,
                              const QueryAttentionSaved& saved, TensorView dx, const UnitGradient& d) {
  if (saved.queries.rows->count == 0) return;
  const VitConfig& config = vit.config;
  const BlockPlaces& at = vit.block;
  const int64_t width = config.width;
  const Arena::Scope scope(c.arena);
  const TensorView d_out = add_branch_backward(vit, c, dx, saved.queries, w(at.gamma1), d(at.gamma1));
  const TensorView d_attended =
      linear_backward(c, d_out, saved.attended, w(at.proj_weight), d(at.proj_weight), d(at.proj_bias));
  const TensorView dq = c.arena.make(saved.q.shape, c.act());
  const TensorView dkv = c.arena.make(saved.kv.shape, c.act());
  c.ops.query_attention_backward(c.stream, d_attended, saved.q, saved.kv, saved.attended, saved.lse,
                                 saved.queries.rows->sequences(), saved.keys.rows->sequences(), config.heads,
                                 attention_scale(config), dq, dkv);
  const auto project_backward = [&](const BranchSaved& branch, int64_t first, int64_t rows,
                                    ConstTensorView gradient) {
    const Arena::Scope inner(c.arena);
    const TensorView y = normalised(vit, c, branch, w(at.norm1.weight), w(at.norm1.bias));
    const TensorView dy =
        linear_backward(c, gradient, y, w(at.qkv_weight).rows(first, rows),
                        d(at.qkv_weight).rows(first, rows), d(at.qkv_bias).rows(first, rows));
    finish_backward(c, branch, dy, w(at.norm1.weight), d(at.norm1.weight), d(at.norm1.bias), dx);
  };
  project_backward(saved.queries, 0, width, dq);
  project_backward(saved.keys, width, 2 * width, dkv);
}

namespace {

/// The feed-forward's hidden activations, act [n, hidden], and what comes before the non-linearity (not made
/// for an MLP whose `pre` is empty), of the normalised input y.
void ffn_products(const VitContext& vit, const Context& c, const UnitView& w, ConstTensorView y,
                  TensorView pre, TensorView hidden) {
  const BlockPlaces& at = vit.block;
  if (vit.config.ffn == FfnKind::mlp) {
    const ops::Activation activation =
        vit.config.quick_gelu ? ops::Activation::quick_gelu : ops::Activation::gelu;
    c.ops.linear(c.stream, y, w(at.in_weight), w(at.in_bias), activation, hidden, pre);
    return;
  }
  c.ops.linear(c.stream, y, w(at.in_weight), w(at.in_bias), ops::Activation::none, pre, {});
  c.ops.swiglu(c.stream, pre, hidden);
}

}  // namespace

void ffn_forward(const VitContext& vit, const Context& c, const UnitView& w, Residual& x,
                 std::shared_ptr<const BranchRows> rows, FfnSaved& saved, bool keep, bool keep_products) {
  if (is_left_out(rows, saved)) return;
  const VitConfig& config = vit.config;
  const BlockPlaces& at = vit.block;
  const bool mlp = config.ffn == FfnKind::mlp;
  begin_branch(vit, c, x, std::move(rows), saved, keep);
  const int64_t n = saved.rows->count;
  const Shape pre{n, mlp ? config.hidden : 2 * config.hidden}, hidden{n, config.hidden};
  saved.pre = {};
  if (keep_products) saved.pre = c.arena.make(pre, c.act());
  // SwiGLU's hidden activations are cheap to make again.
  if (keep_products && mlp) saved.hidden = c.arena.make(hidden, c.act());
  {
    const Arena::Scope scope(c.arena);
    const TensorView before = saved.pre      ? saved.pre
                              : mlp && !keep ? TensorView{}
                                             : c.arena.make(pre, c.act());
    const TensorView after = keep_products && mlp ? saved.hidden : c.arena.make(hidden, c.act());
    {
      const Arena::Scope inner(c.arena);
      const TensorView y = enter_branch(vit, c, x, saved, w(at.norm2.weight), w(at.norm2.bias));
      ffn_products(vit, c, w, y, before, after);
    }
    c.ops.linear(c.stream, after, w(at.out_weight), w(at.out_bias), ops::Activation::none, saved.out, {});
  }
  add_branch(c, x, saved, w(at.gamma2));
}

void ffn_backward(const VitContext& vit, const Context& c, const UnitView& w, const FfnSaved& saved,
                  TensorView dx, const UnitGradient& d, const JoinedBranch& before) {
  if (saved.rows->count == 0) return;
  const VitConfig& config = vit.config;
  const BlockPlaces& at = vit.block;
  const bool mlp = config.ffn == FfnKind::mlp;
  const Arena::Scope scope(c.arena);
  const int64_t n = saved.rows->count;
  TensorView pre = saved.pre, hidden = saved.hidden;
  if (!pre) {
    pre = c.arena.make({n, mlp ? config.hidden : 2 * config.hidden}, c.act());
    hidden = c.arena.make({n, config.hidden}, c.act());
    const Arena::Scope inner(c.arena);
    const TensorView y = normalised(vit, c, saved, w(at.norm2.weight), w(at.norm2.bias));
    ffn_products(vit, c, w, y, pre, hidden);
  } else if (!mlp) {
    hidden = c.arena.make({n, config.hidden}, c.act());
    c.ops.swiglu(c.stream, pre, hidden);
  }
  const TensorView d_out = add_branch_backward(vit, c, dx, saved, w(at.gamma2), d(at.gamma2), before.d_out);
  const TensorView d_hidden =
      linear_backward(c, d_out, hidden, w(at.out_weight), d(at.out_weight), d(at.out_bias));
  TensorView d_pre = d_hidden;
  // The bias's gradient comes with GELU's: the others' comes with their product's.
  const bool with_bias = mlp && !config.quick_gelu;
  if (with_bias) {
    c.ops.gelu_backward(c.stream, d_hidden, pre, d_pre, d(at.in_bias));
  } else if (mlp) {
    c.ops.quick_gelu_backward(c.stream, d_hidden, pre, d_pre);
  } else {
    d_pre = c.arena.make({n, 2 * config.hidden}, c.act());
    c.ops.swiglu_backward(c.stream, d_hidden, pre, d_pre);
  }
  const TensorView y = normalised(vit, c, saved, w(at.norm2.weight), w(at.norm2.bias));
  const TensorView dy = linear_backward(c, d_pre, y, w(at.in_weight), d(at.in_weight),
                                        with_bias ? TensorView{} : d(at.in_bias));
  const NormPlaces& norm = at.norm2;
  if (before.saved == nullptr) {
    finish_backward(c, saved, dy, w(norm.weight), d(norm.weight), d(norm.bias), dx);
    return;
  }
  c.ops.residual_layer_norm_backward(c.stream, dy, saved.input, before.saved->out, w(at.gamma1),
                                     w(norm.weight), saved.mean, saved.rstd, dx, before.d_out, d(at.gamma1),
                                     d(norm.weight), d(norm.bias));
}

}  // namespace dino
