// SPDX-License-Identifier: Apache-2.0
#include "model/vit.hpp"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <mutex>
#include <optional>

#include "model/vit_parts.hpp"

namespace dino {

struct VitSaved {
  std::shared_ptr<const TokenPlan> plan;
  EmbedSaved embed;
  struct Block {
    AttentionSaved attention;
    std::optional<QueryAttentionSaved> few_queries;  ///< in place of it, when few rows are read
    FfnSaved ffn;
    // Of a block that is made again:
    TensorView input;  ///< f32 [rows, D]; empty: the block is kept
    std::array<std::shared_ptr<const BranchRows>, 2> rows;
  };
  std::vector<Block> blocks;
  TensorView prenorm, mean, rstd;
};

struct Vit::Impl {
  Impl(const VitConfig& config, std::string module) : context(config, std::move(module)) {}
  /// Evaluation on images of many sizes makes many plans; beyond this many they are made anew.
  static constexpr size_t kMaxPlans = 64;
  VitContext context;
  mutable std::mutex mutex;
  mutable std::map<std::vector<int64_t>, std::shared_ptr<const TokenPlan>> plans;

  std::shared_ptr<const TokenPlan> plan_for(const Context& c, std::span<const CropBatch> crops) const {
    std::vector<TokenEntry> entries = token_entries(context.config, crops);
    std::vector<int64_t> key;
    for (const TokenEntry& entry : entries) key.insert(key.end(), {entry.batch, entry.grid_h, entry.grid_w});
    const std::lock_guard lock(mutex);
    if (plans.size() >= kMaxPlans) plans.clear();
    auto& plan = plans[key];
    if (!plan) plan = make_token_plan(c, context.config, std::move(entries));
    return plan;
  }

  /// The row sets of both branches of a block.
  std::array<std::shared_ptr<const BranchRows>, 2> rows_of(
      const Context& c, std::span<const TokenEntry> entries,
      const std::shared_ptr<const BranchRows>& everything, const DropPathPlan* plan, int64_t block) const {
    if (plan == nullptr || plan->empty()) return {everything, everything};
    DINO_CHECK(static_cast<int64_t>(plan->kept.size()) == context.config.depth,
               "a stochastic depth plan has one pair per block");
    const auto& kept = plan->kept[static_cast<size_t>(block)];
    return {kept_rows(c, entries, kept[0]), kept_rows(c, entries, kept[1])};
  }

  void final_norm(const Context& c, const UnitView& w, ConstTensorView x, TensorView y, TensorView mean,
                  TensorView rstd) const {
    c.ops.layer_norm(c.stream, x, w(context.norm.weight), w(context.norm.bias),
                     static_cast<float>(context.config.norm_eps), y, mean, rstd);
  }

  /// What the caller asked for besides the tokens; made before the blocks so that it outlives their scopes.
  void make_outputs(const Context& c, const VitForwardOptions& options, VitOutput& output) const {
    DINO_CHECK(options.read_rows.empty() ||
                   (options.intermediate_blocks.empty() && !options.attention_of_class_token),
               "rows that are not computed can be neither intermediate outputs nor attention maps");
    for (const int64_t block : options.intermediate_blocks) {
      DINO_CHECK(block >= 0 && block < context.config.depth, "block " + std::to_string(block));
      const bool last = block == context.config.depth - 1;
      output.intermediate.push_back(last ? output.norm : c.arena.make(output.norm.shape));
    }
    if (!options.attention_of_class_token) return;
    DINO_CHECK(output.entries.size() == 1, "attention maps are for one entry at a time");
    const TokenEntry& entry = output.entries.front();
    DINO_CHECK(options.attention_query >= 0 && options.attention_query < entry.tokens, "a query token");
    output.last_attention = c.arena.make({entry.batch, context.config.heads, entry.tokens});
  }

  void last_attention(const Context& c, const AttentionSaved& saved, const VitForwardOptions& options,
                      const VitOutput& output) const {
    DINO_CHECK(saved.rows->all, "attention maps are for inference");
    const VitConfig& config = context.config;
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.width / config.heads)));
    c.ops.attention_probabilities(c.stream, saved.qkv, saved.rows->sequences(), config.heads, scale,
                                  options.attention_query, output.last_attention);
  }

  /// The class tokens in the space shared with text; made in the caller's scope.
  void project(const Context& c, const UnitView& w, const TokenPlan& plan, VitOutput& output) const {
    if (context.config.projection == 0) return;
    const int64_t images = plan.class_rows.numel();
    output.projected = c.arena.make({images, context.config.projection});
    const Arena::Scope scope(c.arena);
    const TensorView tokens = c.arena.make({images, context.config.width}, c.act());
    c.ops.gather_rows(c.stream, output.norm, plan.class_rows, tokens);
    c.ops.linear(c.stream, tokens, w(context.projection), {}, ops::Activation::none, output.projected, {});
  }

  /// All tokens after a branch of a block, which an observer wants added up.
  void observe(const Context& c, int64_t block, const char* tensor, Residual& x) const {
    if (c.observer != nullptr) observe(c, block, tensor, x.settled(c));
  }
  /// The same of their gradients.
  void observe(const Context& c, int64_t block, const char* tensor, ConstTensorView x) const {
    if (c.observer == nullptr) return;
    c.observe(fmt::format("{}.blocks.{}", context.module, block), tensor, x, ObservedRows::packed);
  }

  [[nodiscard]] Residual residual_of(const Context& c, TensorView tokens, const VitForwardOptions& options,
                                     bool keep) const {
    if (keep) return Residual::keeping_inputs(tokens);
    // Branches on parts of the batch add at once.
    if (options.drop_path != nullptr && !options.drop_path->empty()) return Residual(tokens);
    return Residual::deferring(tokens, c.arena.make(tokens.shape, c.act()));
  }

  /// What a block's pass is told, and leaves behind.
  struct BlockPass {
    int64_t block = 0;
    std::array<std::shared_ptr<const BranchRows>, 2> rows;
    std::span<const int64_t> read;  ///< of the last block; empty: all
    bool keep = false, keep_products = false;
  };

  void run_attention(const Context& c, const UnitView& w, const BlockPass& pass, Residual& x,
                     VitSaved::Block& state) const {
    if (pass.read.empty()) {
      attention_forward(context, c, w, x, pass.rows[0], state.attention, pass.keep);
    } else {
      query_attention_forward(context, c, w, x, pass.rows[0], read_rows(c, *pass.rows[0], pass.read),
                              state.few_queries.emplace(), pass.keep);
    }
    observe(c, pass.block, "after attention", x);
  }

  void run_ffn(const Context& c, const UnitView& w, const BlockPass& pass, Residual& x,
               VitSaved::Block& state) const {
    ffn_forward(context, c, w, x, pass.read.empty() ? pass.rows[1] : read_rows(c, *pass.rows[1], pass.read),
                state.ffn, pass.keep, pass.keep_products);
    observe(c, pass.block, "after feed-forward", x);
  }

  /// A block of a pass that nothing is kept of: each branch gives its memory back before the next.
  void pass_block(const Context& c, const UnitView& w, const BlockPass& pass,
                  const VitForwardOptions& options, const VitOutput& output, Residual& x) const {
    VitSaved::Block scratch;
    {
      const Arena::Scope scope(c.arena);
      run_attention(c, w, pass, x, scratch);
      if (output.last_attention && pass.block == context.config.depth - 1)
        last_attention(c, scratch.attention, options, output);
    }
    const Arena::Scope scope(c.arena);
    run_ffn(c, w, pass, x, scratch);
  }

  void keep_block(const Context& c, const UnitView& w, BlockPass pass, const VitForwardOptions& options,
                  const VitOutput& output, Residual& x, VitSaved::Block& state) const {
    const bool last = pass.block == context.config.depth - 1;
    state.few_queries.reset();
    state.input = {};
    pass.keep = true;
    pass.keep_products = last || options.recompute != Recompute::selective;
    // The last block is taken back at once. What is made again is made by the same operators.
    if (options.recompute == Recompute::block && !last) {
      const TensorView tokens = x.settled(c);
      state.input = c.arena.make(tokens.shape);
      copy(c.stream, state.input, tokens);
      state.rows = pass.rows;
      const Arena::Scope scope(c.arena);
      VitSaved::Block scratch;
      Residual inside = Residual::deferring(tokens, {});
      run_attention(c, w, pass, inside, scratch);
      run_ffn(c, w, pass, inside, scratch);
      (void)inside.settled(c);
      return;
    }
    run_attention(c, w, pass, x, state);
    if (output.last_attention && last) last_attention(c, state.attention, options, output);
    run_ffn(c, w, pass, x, state);
  }

  void block_backward(const Context& c, const UnitView& w, const UnitGradient& d, int64_t block,
                      const VitSaved::Block& kept, TensorView dx) const {
    const Arena::Scope scope(c.arena);
    VitSaved::Block again;
    if (kept.input) {
      const TensorView x = c.arena.make(kept.input.shape);
      copy(c.stream, x, kept.input);
      const BlockPass pass{block, kept.rows, {}, true, true};
      Residual inside = Residual::keeping_inputs(x);
      run_attention(c, w, pass, inside, again);
      run_ffn(c, w, pass, inside, again);
    }
    const VitSaved::Block& state = kept.input ? again : kept;
    JoinedBranch joined;
    if (!state.few_queries && state.attention.rows->all && state.ffn.rows->all)
      joined = {&state.attention, c.arena.make(state.attention.out.shape, c.act())};
    ffn_backward(context, c, w, state.ffn, dx, d, joined);
    observe(c, block, "gradient before feed-forward", dx);
    if (state.few_queries)
      query_attention_backward(context, c, w, *state.few_queries, dx, d);
    else
      attention_backward(context, c, w, state.attention, dx, d, joined.d_out);
    observe(c, block, "gradient before attention", dx);
  }
};

namespace {

const std::string& unit_name(const UnitWeights& weights, int64_t unit) {
  return weights.layout().units()[static_cast<size_t>(unit)].name;
}

}  // namespace

Vit::Vit(VitConfig config, std::string module)
    : config_(config), impl_(std::make_unique<Impl>(config, std::move(module))) {
  DINO_CHECK(config.heads > 0 && config.width % config.heads == 0, "heads divide the width");
}
Vit::~Vit() = default;
Vit::Vit(Vit&&) noexcept = default;

VitOutput Vit::forward(const Context& c, const UnitWeights& weights, std::span<const CropBatch> crops,
                       const VitForwardOptions& options, std::shared_ptr<VitSaved>* saved) const {
  std::shared_ptr<VitSaved> keep;
  if (saved != nullptr) keep = *saved && saved->use_count() == 1 ? *saved : std::make_shared<VitSaved>();
  const std::shared_ptr<const TokenPlan> plan = impl_->plan_for(c, crops);
  const auto& everything = plan->everything;
  VitOutput output;
  output.entries = plan->entries;
  output.prenorm = c.arena.make({everything->count, config_.width});
  output.norm = c.arena.make({everything->count, config_.width});
  impl_->make_outputs(c, options, output);
  const VitContext& context = impl_->context;
  const int64_t first_block = context.block_unit(weights.layout(), 0);
  const int64_t norm_unit = context.norm_unit(weights.layout());
  EmbedSaved scratch;
  {
    const UnitView w = weights.acquire(context.embed_unit(weights.layout()));
    weights.prefetch(first_block);
    embed_forward(context, c, w, crops, *plan, output.prenorm, keep ? keep->embed : scratch, keep != nullptr);
    c.observe(unit_name(weights, first_block - 1), "tokens", output.prenorm, ObservedRows::packed);
  }
  if (keep) keep->blocks.resize(static_cast<size_t>(config_.depth));
  Residual x = impl_->residual_of(c, output.prenorm, options, keep != nullptr);
  const TensorView layer_scale = c.arena.make({config_.width});
  for (int64_t block = 0; block < config_.depth; ++block) {
    const UnitView w = weights.acquire(first_block + block);
    weights.prefetch(first_block + block + 1);  // after the last block, the final norm
    Impl::BlockPass pass;
    pass.block = block;
    pass.rows = impl_->rows_of(c, output.entries, everything, options.drop_path, block);
    if (block == config_.depth - 1) pass.read = options.read_rows;
    if (keep)
      impl_->keep_block(c, w, pass, options, output, x, keep->blocks[static_cast<size_t>(block)]);
    else
      impl_->pass_block(c, w, pass, options, output, x);
    x.detach(c, layer_scale);
    for (size_t i = 0; i < options.intermediate_blocks.size(); ++i)
      if (options.intermediate_blocks[i] == block && block < config_.depth - 1)
        impl_->final_norm(c, weights.acquire(norm_unit), x.settled(c), output.intermediate[i], {}, {});
  }
  output.prenorm = x.settled(c);
  if (keep) {
    keep->plan = plan;
    keep->prenorm = output.prenorm;
    keep->mean = c.arena.make({everything->count});
    keep->rstd = c.arena.make({everything->count});
  }
  const UnitView last = weights.acquire(norm_unit);
  impl_->final_norm(c, last, output.prenorm, output.norm, keep ? keep->mean : TensorView{},
                    keep ? keep->rstd : TensorView{});
  impl_->project(c, last, *plan, output);
  c.observe(unit_name(weights, norm_unit), "tokens", output.norm, ObservedRows::packed);
  if (saved != nullptr) *saved = keep;
  return output;
}

void Vit::backward(const Context& c, const UnitWeights& weights, const VitSaved& saved,
                   ConstTensorView d_norm, ConstTensorView d_prenorm, UnitGradients& gradients,
                   std::span<const TensorView> d_images) const {
  const VitContext& context = impl_->context;
  const ParameterLayout& layout = weights.layout();
  const Arena::Scope scope(c.arena);
  const TensorView dx = c.arena.make(saved.prenorm.shape);
  if (d_prenorm) {
    DINO_CHECK(d_prenorm.numel() == dx.numel(), "gradient of the tokens " + d_prenorm.shape.str());
    c.ops.convert(c.stream, d_prenorm, dx);
  } else {
    fill(c.stream, dx, 0);
  }
  {
    const int64_t unit = context.norm_unit(layout);
    const UnitView w = weights.acquire(unit);
    weights.prefetch(unit - 1);
    const UnitGradient d = gradients.gradient(unit);
    if (d_norm)
      c.ops.layer_norm_backward(c.stream, d_norm, saved.prenorm, w(context.norm.weight), saved.mean,
                                saved.rstd, {}, dx, d(context.norm.weight), d(context.norm.bias));
    c.observe(unit_name(weights, unit), "gradient before the norm", dx, ObservedRows::packed);
    c.observe(unit_name(weights, unit), "gradient of parameters", d.values(), ObservedRows::parameters);
    gradients.finish_gradient(unit);
  }
  for (int64_t block = config_.depth - 1; block >= 0; --block) {
    const int64_t unit = context.block_unit(layout, block);
    const UnitView w = weights.acquire(unit);
    weights.prefetch(unit - 1);  // before the first block, the embedding
    const UnitGradient d = gradients.gradient(unit);
    impl_->block_backward(c, w, d, block, saved.blocks[static_cast<size_t>(block)], dx);
    c.observe(unit_name(weights, unit), "gradient of parameters", d.values(), ObservedRows::parameters);
    gradients.finish_gradient(unit);
  }
  const int64_t unit = context.embed_unit(layout);
  const UnitView w = weights.acquire(unit);
  const UnitGradient d = gradients.gradient(unit);
  embed_backward(context, c, w, saved.embed, *saved.plan, dx, d, d_images);
  c.observe(unit_name(weights, unit), "gradient of parameters", d.values(), ObservedRows::parameters);
  gradients.finish_gradient(unit);
}

}  // namespace dino
