// SPDX-License-Identifier: Apache-2.0
#include "model/text_tower.hpp"

#include <fmt/format.h>

#include <cmath>

#include "model/vit_parts.hpp"

namespace dino {
namespace {

constexpr const char* kModule = "text";
constexpr int64_t kEmbedUnit = 0;

/// The blocks, as those of a vision transformer.
VitConfig block_config(const TextConfig& config) {
  VitConfig blocks;
  blocks.width = config.width;
  blocks.depth = config.depth;
  blocks.heads = config.heads;
  blocks.hidden = config.hidden;
  blocks.quick_gelu = config.quick_gelu;
  blocks.layerscale = config.layerscale;
  blocks.norm_eps = config.norm_eps;
  blocks.patch = 1;
  blocks.position_grid = 1;
  return blocks;
}

}  // namespace

void append_text_layout(ParameterLayout& layout, const TextConfig& config) {
  const std::string module = kModule;
  const auto spread = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.width)));
  layout.begin_unit(module + ".embed", module);
  layout.add(module + ".token_embedding", {config.vocabulary, config.width}, {Init::Kind::normal, 0.02F});
  layout.add(module + ".positions", {config.context, config.width}, {Init::Kind::normal, 0.01F});
  for (int64_t i = 0; i < config.depth; ++i) append_block_layout(layout, block_config(config), module, i);
  layout.begin_unit(module + ".norm", module);
  layout.add(module + ".norm.weight", {config.width}, {Init::Kind::constant, 1.0F});
  layout.add(module + ".norm.bias", {config.width}, {});
  layout.add(module + ".projection.weight", {config.projection, config.width}, {Init::Kind::normal, spread});
  layout.add(module + ".logit_scale", {1}, {Init::Kind::constant, static_cast<float>(std::log(1 / 0.07))});
}

struct TextSaved {
  TensorView ids, positions, ends;  ///< i64: of every row; the row of every text's last token
  struct Block {
    AttentionSaved attention;
    QueryAttentionSaved last;  ///< of the last block, in place of it
    FfnSaved ffn;
  };
  std::vector<Block> blocks;
  int64_t rows = 0;
  TensorView pooled;      ///< f32 [texts, D] before the final norm
  TensorView mean, rstd;  ///< f32 [texts]
  TensorView normed;      ///< act [texts, D]
};

struct TextTower::Impl {
  explicit Impl(const TextConfig& config) : blocks(block_config(config), kModule) {
    ParameterLayout layout;
    append_text_layout(layout, config);
    tokens = place_of(layout, "text.token_embedding");
    positions = place_of(layout, "text.positions");
    norm = {place_of(layout, "text.norm.weight"), place_of(layout, "text.norm.bias")};
    projection = place_of(layout, "text.projection.weight");
    logit_scale = place_of(layout, "text.logit_scale");
  }
  VitContext blocks;
  ParameterPlace tokens, positions, projection, logit_scale;
  NormPlaces norm;

  /// The rows of a batch of texts.
  struct Rows {
    std::vector<int64_t> ids, positions, ends;
    std::vector<TokenEntry> entries;
  };
  static Rows rows_of(const TextConfig& config, std::span<const std::vector<int32_t>> texts) {
    Rows rows;
    for (const std::vector<int32_t>& text : texts) {
      const auto length = std::ssize(text);
      DINO_CHECK(length >= 1 && length <= config.context, "a text of " + std::to_string(length) + " tokens");
      rows.entries.push_back({std::ssize(rows.ids), 1, length, 1, length});
      for (int64_t i = 0; i < length; ++i) {
        const int64_t id = text[static_cast<size_t>(i)];
        DINO_CHECK(id >= 0 && id < config.vocabulary, "token " + std::to_string(id));
        rows.ids.push_back(id);
        rows.positions.push_back(i);
      }
      rows.ends.push_back(std::ssize(rows.ids) - 1);
    }
    return rows;
  }

  void embed(const Context& c, const UnitView& w, const TextSaved& saved, TensorView x) const {
    const Arena::Scope scope(c.arena);
    const TensorView places = c.arena.make(x.shape);
    c.ops.gather_rows(c.stream, w(tokens), saved.ids, x);
    c.ops.gather_rows(c.stream, w(positions), saved.positions, places);
    c.ops.axpy(c.stream, 1.0F, places, x);
  }

  /// x -> f32 [texts, E]
  TensorView pool(const Context& c, const UnitView& w, const TextConfig& config, ConstTensorView x,
                  TextSaved& saved) const {
    const int64_t texts = saved.ends.numel();
    saved.pooled = c.arena.make({texts, config.width});
    saved.mean = c.arena.make({texts});
    saved.rstd = c.arena.make({texts});
    saved.normed = c.arena.make({texts, config.width}, c.act());
    const TensorView out = c.arena.make({texts, config.projection});
    c.ops.gather_rows(c.stream, x, saved.ends, saved.pooled);
    c.ops.layer_norm(c.stream, saved.pooled, w(norm.weight), w(norm.bias),
                     static_cast<float>(config.norm_eps), saved.normed, saved.mean, saved.rstd);
    c.ops.linear(c.stream, saved.normed, w(projection), {}, ops::Activation::none, out, {});
    return out;
  }

  /// d_out -> dx f32 [rows, D], zero but at the ends.
  TensorView pool_backward(const Context& c, const UnitView& w, const UnitGradient& d, ConstTensorView d_out,
                           const TextSaved& saved) const {
    const Shape shape{saved.rows, saved.pooled.dim(1)};
    const TensorView dx = c.arena.zeros(c.stream, shape);
    const Arena::Scope scope(c.arena);
    const ConstTensorView d_act = in_dtype(c, d_out, c.act());
    const TensorView d_normed = c.arena.make(saved.normed.shape, c.act());
    const TensorView d_pooled = c.arena.zeros(c.stream, saved.pooled.shape);
    c.ops.linear_backward_weight(c.stream, d_act, saved.normed, d(projection), {});
    c.ops.linear_backward_input(c.stream, d_act, w(projection), d_normed, false);
    c.ops.layer_norm_backward(c.stream, d_normed, saved.pooled, w(norm.weight), saved.mean, saved.rstd, {},
                              d_pooled, d(norm.weight), d(norm.bias));
    c.ops.scatter_add_rows(c.stream, d_pooled, saved.ends, dx);
    return dx;
  }
};

TextTower::TextTower(const TextConfig& config) : config_(config), impl_(std::make_unique<Impl>(config)) {
  DINO_CHECK(config.heads > 0 && config.width % config.heads == 0 && config.depth > 0,
             "a text tower's sizes");
}
TextTower::~TextTower() = default;
TextTower::TextTower(TextTower&&) noexcept = default;

ParameterPlace TextTower::logit_scale() const {
  return impl_->logit_scale;
}

TensorView TextTower::forward(const Context& c, const UnitWeights& weights,
                              std::span<const std::vector<int32_t>> texts,
                              std::shared_ptr<TextSaved>* saved) const {
  DINO_CHECK(!texts.empty(), "texts");
  const bool keep = saved != nullptr;
  const auto state = std::make_shared<TextSaved>();
  const Impl::Rows rows = Impl::rows_of(config_, texts);
  const auto upload = [&](const std::vector<int64_t>& list) {
    return c.arena.upload(c.stream, std::span<const int64_t>(list));
  };
  state->rows = std::ssize(rows.ids);
  state->ids = upload(rows.ids);
  state->positions = upload(rows.positions);
  state->ends = upload(rows.ends);
  const auto causal = all_rows(c, rows.entries, true), everything = all_rows(c, rows.entries);
  const auto ends = read_rows(c, *everything, rows.ends);
  const TensorView tokens = c.arena.make({state->rows, config_.width});
  impl_->embed(c, weights.acquire(kEmbedUnit), *state, tokens);
  Residual x = keep ? Residual::keeping_inputs(tokens)
                    : Residual::deferring(tokens, c.arena.make(tokens.shape, c.act()));
  const TensorView layer_scale = c.arena.make({config_.width});
  state->blocks.resize(static_cast<size_t>(keep ? config_.depth : 1));
  for (int64_t block = 0; block < config_.depth; ++block) {
    const UnitView w = weights.acquire(kEmbedUnit + 1 + block);
    weights.prefetch(kEmbedUnit + 2 + block);  // after the last block, the final norm
    const bool last = block == config_.depth - 1;
    // The end of a text attends to all of it: the last block's mask hides nothing from the rows that count.
    const auto run = [&](TextSaved::Block& kept) {
      if (last)
        query_attention_forward(impl_->blocks, c, w, x, everything, ends, kept.last, keep);
      else
        attention_forward(impl_->blocks, c, w, x, causal, kept.attention, keep);
      ffn_forward(impl_->blocks, c, w, x, last ? ends : everything, kept.ffn, keep, keep);
    };
    if (keep) {
      run(state->blocks[static_cast<size_t>(block)]);
    } else {
      const Arena::Scope scope(c.arena);
      TextSaved::Block scratch;
      run(scratch);
    }
    x.detach(c, layer_scale);
  }
  const TensorView out =
      impl_->pool(c, weights.acquire(kEmbedUnit + 1 + config_.depth), config_, x.settled(c), *state);
  if (keep) *saved = state;
  return out;
}

void TextTower::backward(const Context& c, const UnitWeights& weights, const TextSaved& saved,
                         ConstTensorView d_out, UnitGradients& gradients) const {
  const Arena::Scope scope(c.arena);
  TensorView dx;
  const int64_t norm_unit = kEmbedUnit + 1 + config_.depth;
  {
    const UnitView w = weights.acquire(norm_unit);
    dx = impl_->pool_backward(c, w, gradients.gradient(norm_unit), d_out, saved);
    gradients.finish_gradient(norm_unit);
  }
  for (int64_t block = config_.depth - 1; block >= 0; --block) {
    const int64_t unit = kEmbedUnit + 1 + block;
    const UnitView w = weights.acquire(unit);
    const UnitGradient d = gradients.gradient(unit);
    const TextSaved::Block& kept = saved.blocks[static_cast<size_t>(block)];
    const bool last = block == config_.depth - 1;
    const Arena::Scope of_block(c.arena);
    JoinedBranch joined;
    if (!last) joined = {&kept.attention, c.arena.make(kept.attention.out.shape, c.act())};
    ffn_backward(impl_->blocks, c, w, kept.ffn, dx, d, joined);
    if (last)
      query_attention_backward(impl_->blocks, c, w, kept.last, dx, d);
    else
      attention_backward(impl_->blocks, c, w, kept.attention, dx, d, joined.d_out);
    gradients.finish_gradient(unit);
  }
  const UnitGradient d = gradients.gradient(kEmbedUnit);
  c.ops.scatter_add_rows(c.stream, dx, saved.ids, d(impl_->tokens));
  c.ops.scatter_add_rows(c.stream, dx, saved.positions, d(impl_->positions));
  gradients.finish_gradient(kEmbedUnit);
}

void bring_to_device(TextModel& model, const Context& c) {
  if (c.stream.device().is_host()) return;
  ParameterStore there(model.layout, c.ops.memory());
  there.copy_from(c.stream, model.weights);
  c.stream.synchronize();
  model.weights = std::move(there);
}

}  // namespace dino
