// SPDX-License-Identifier: Apache-2.0
// Tokens: [cls + pos_0, registers, patches + pos]; a masked patch is the mask token + its pos; registers get
// no position.
#include "model/vit_parts.hpp"

namespace dino {
namespace {

int64_t patch_count(const TokenEntry& entry) {
  return entry.grid_h * entry.grid_w;
}

/// [1 + M*M, D] of the parameter's [1, 1 + M*M, D].
template <class View>
View table_of_positions(View pos_embed) {
  return pos_embed.reshaped({pos_embed.dim(1), pos_embed.dim(2)});
}

/// f32 [1 + N + R, D]: cls, patch positions, registers. In this order the positions are one block.
TensorView token_table(const VitContext& vit, const Context& c, const UnitView& w, const PositionMaps& maps,
                       int64_t patches) {
  const VitConfig& config = vit.config;
  const int64_t positions = 1 + patches;
  TensorView table = c.arena.make({positions + config.registers, config.width});
  c.ops.sparse_rows(c.stream, maps.forward, table_of_positions(w(vit.embed.pos_embed)),
                    table.rows(0, positions), false);
  c.ops.axpy(c.stream, 1.0F, w(vit.embed.cls_token), table.rows(0, 1));
  if (config.registers > 0)
    copy(c.stream, table.rows(positions, config.registers), w(vit.embed.register_tokens));
  return table;
}

/// Rows of the table for all tokens of an entry.
std::vector<int64_t> table_rows(const VitConfig& config, const TokenEntry& entry) {
  std::vector<int64_t> rows;
  rows.reserve(static_cast<size_t>(entry.batch * entry.tokens));
  for (int64_t image = 0; image < entry.batch; ++image) {
    rows.push_back(0);
    for (int64_t r = 0; r < config.registers; ++r) rows.push_back(1 + patch_count(entry) + r);
    for (int64_t p = 0; p < patch_count(entry); ++p) rows.push_back(1 + p);
  }
  return rows;
}

/// Where the masks of all entries are set.
void find_masked(const Context& c, std::span<const CropBatch> crops, const TokenPlan& plan,
                 EmbedSaved& saved) {
  std::vector<int64_t> masked, rows;
  int64_t first = 0;
  for (size_t e = 0; e < crops.size(); ++e) {
    const int64_t count = plan.entries[e].batch * patch_count(plan.entries[e]);
    if (crops[e].masks) {
      const uint8_t* mask = crops[e].masks.as<uint8_t>();
      for (int64_t i = 0; i < count; ++i) {
        if (mask[i] == 0) continue;
        masked.push_back(first + i);
        rows.push_back(plan.patch_rows[static_cast<size_t>(first + i)]);
      }
    }
    first += count;
  }
  saved.masked = {};
  saved.masked_rows = {};
  if (masked.empty()) return;
  saved.masked = c.arena.upload(c.stream, std::span<const int64_t>(masked));
  saved.masked_rows = c.arena.upload(c.stream, std::span<const int64_t>(rows));
}

/// The patch projection as a matrix [D, C p p].
template <class View>
View as_matrix(View weight) {
  return weight.reshaped({weight.dim(0), weight.numel() / weight.dim(0)});
}

void add_patches(const VitContext& vit, const Context& c, const UnitView& w, const TokenPlan& plan,
                 const EmbedSaved& saved, TensorView x) {
  if (plan.patch_rows.empty()) return;
  const Arena::Scope scope(c.arena);
  const TensorView embedded = c.arena.make({saved.patches.dim(0), vit.config.width}, c.act());
  c.ops.linear(c.stream, saved.patches, as_matrix(w(vit.embed.proj_weight)), w(vit.embed.proj_bias),
               ops::Activation::none, embedded, {});
  if (saved.masked) c.ops.zero_rows(c.stream, embedded, saved.masked);
  c.ops.scaled_index_add(c.stream, x, embedded, {}, 1.0F, plan.device_patch_rows);
}

void add_mask_token(const VitContext& vit, const Context& c, const UnitView& w, const EmbedSaved& saved,
                    TensorView x) {
  if (!saved.masked_rows) return;
  const Arena::Scope scope(c.arena);
  const int64_t count = saved.masked_rows.numel();
  const TensorView tokens = c.arena.make({count, vit.config.width});
  const TensorView first = c.arena.zeros(c.stream, {count}, DType::i64);
  c.ops.gather_rows(c.stream, w(vit.embed.mask_token), first, tokens);
  c.ops.scaled_index_add(c.stream, x, tokens, {}, 1.0F, saved.masked_rows);
}

/// x <- norm(x); with `keep`, what backward needs goes to `saved`.
void normalise_tokens(const VitContext& vit, const Context& c, const UnitView& w, TensorView x,
                      const EmbedSaved& saved, bool keep) {
  const Arena::Scope scope(c.arena);
  const TensorView before = keep ? saved.tokens : c.arena.make(x.shape);
  copy(c.stream, before, x);
  c.ops.layer_norm(c.stream, before, w(vit.input_norm.weight), w(vit.input_norm.bias),
                   static_cast<float>(vit.config.norm_eps), x, keep ? saved.mean : TensorView{},
                   keep ? saved.rstd : TensorView{});
}

void table_backward(const VitContext& vit, const Context& c, const TokenPlan& plan, size_t entry,
                    ConstTensorView dx, const UnitGradient& d) {
  const VitConfig& config = vit.config;
  const TokenEntry& tokens = plan.entries[entry];
  const Arena::Scope scope(c.arena);
  const int64_t positions = 1 + patch_count(tokens);
  const TensorView d_table = c.arena.zeros(c.stream, {positions + config.registers, config.width});
  c.ops.scatter_add_rows(c.stream, dx.rows(tokens.first_row, tokens.batch * tokens.tokens),
                         plan.table_rows[entry], d_table);
  c.ops.axpy(c.stream, 1.0F, d_table.rows(0, 1), d(vit.embed.cls_token));
  if (config.registers > 0)
    c.ops.axpy(c.stream, 1.0F, d_table.rows(positions, config.registers), d(vit.embed.register_tokens));
  c.ops.sparse_rows(c.stream, plan.position_maps[entry].backward, d_table.rows(0, positions),
                    table_of_positions(d(vit.embed.pos_embed)), true);
}

void mask_token_backward(const VitContext& vit, const Context& c, const EmbedSaved& saved, ConstTensorView dx,
                         const UnitGradient& d) {
  if (!saved.masked_rows) return;
  const Arena::Scope scope(c.arena);
  const TensorView d_masked = c.arena.make({saved.masked_rows.numel(), vit.config.width});
  c.ops.gather_rows(c.stream, dx, saved.masked_rows, d_masked);
  c.ops.weighted_column_sums(c.stream, d_masked, {}, d(vit.embed.mask_token));
}

/// d_embedded act [P, D] -> the gradients of the images.
void image_backward(const VitContext& vit, const Context& c, const UnitView& w, const TokenPlan& plan,
                    ConstTensorView d_embedded, int64_t columns, std::span<const TensorView> d_images) {
  const Arena::Scope scope(c.arena);
  const Shape shape{d_embedded.dim(0), columns};
  const TensorView d_act = c.arena.make(shape, c.act());
  const TensorView d_patches = c.arena.make(shape);
  c.ops.linear_backward_input(c.stream, d_embedded, as_matrix(w(vit.embed.proj_weight)), d_act, false);
  c.ops.convert(c.stream, d_act, d_patches);
  int64_t first = 0;
  for (size_t e = 0; e < d_images.size(); ++e) {
    const int64_t count = plan.entries[e].batch * patch_count(plan.entries[e]);
    if (d_images[e] && count > 0)
      c.ops.patchify_backward(c.stream, d_patches.rows(first, count), vit.config.patch, d_images[e]);
    first += count;
  }
}

}  // namespace

std::vector<TokenEntry> token_entries(const VitConfig& config, std::span<const CropBatch> crops) {
  std::vector<TokenEntry> entries;
  int64_t row = 0;
  for (const CropBatch& crop : crops) {
    const Shape& shape = crop.images.shape;
    DINO_CHECK(shape.rank() == 4 && shape[1] == config.channels && shape[2] > 0 && shape[3] > 0 &&
                   shape[2] % config.patch == 0 && shape[3] % config.patch == 0,
               "crops " + shape.str() + " for patches of " + std::to_string(config.patch));
    TokenEntry entry{row, shape[0], 0, shape[2] / config.patch, shape[3] / config.patch};
    entry.tokens = 1 + config.registers + patch_count(entry);
    DINO_CHECK(!crop.masks || crop.masks.numel() == entry.batch * patch_count(entry),
               "masks " + crop.masks.shape.str() + " for crops " + shape.str());
    row += entry.batch * entry.tokens;
    entries.push_back(entry);
  }
  return entries;
}

std::shared_ptr<const TokenPlan> make_token_plan(const Context& c, const VitConfig& config,
                                                 std::vector<TokenEntry> entries) {
  auto plan = std::make_shared<TokenPlan>(c.ops.memory());
  const Context lasting = c.with(plan->arena);
  const auto upload = [&](const std::vector<int64_t>& rows) {
    return plan->arena.upload(c.stream, std::span<const int64_t>(rows));
  };
  plan->everything = all_rows(lasting, entries);
  for (const TokenEntry& entry : entries) {
    plan->table_rows.push_back(upload(table_rows(config, entry)));
    plan->position_maps.push_back(position_maps(lasting, config, entry.grid_h, entry.grid_w));
    for (int64_t image = 0; image < entry.batch; ++image)
      for (int64_t p = 0; p < patch_count(entry); ++p)
        plan->patch_rows.push_back(entry.patch_row(image, p, config.registers));
  }
  plan->device_patch_rows = upload(plan->patch_rows);
  std::vector<int64_t> class_rows;
  for (const TokenEntry& entry : entries)
    for (int64_t image = 0; image < entry.batch; ++image) class_rows.push_back(entry.cls_row(image));
  plan->class_rows = upload(class_rows);
  plan->entries = std::move(entries);
  return plan;
}

void embed_forward(const VitContext& vit, const Context& c, const UnitView& w,
                   std::span<const CropBatch> crops, const TokenPlan& plan, TensorView x, EmbedSaved& saved,
                   bool keep) {
  const VitConfig& config = vit.config;
  find_masked(c, crops, plan, saved);
  const Shape patches{static_cast<int64_t>(plan.patch_rows.size()),
                      config.channels * config.patch * config.patch};
  if (keep) saved.patches = c.arena.make(patches, c.act());
  if (keep && config.input_norm) {
    saved.tokens = c.arena.make(x.shape);
    saved.mean = c.arena.make({x.dim(0)});
    saved.rstd = c.arena.make({x.dim(0)});
  }
  const Arena::Scope scope(c.arena);
  if (!keep) saved.patches = c.arena.make(patches, c.act());
  int64_t first = 0;
  for (size_t e = 0; e < plan.entries.size(); ++e) {
    const TokenEntry& entry = plan.entries[e];
    if (entry.batch == 0) continue;
    const int64_t count = entry.batch * patch_count(entry);
    c.ops.patchify(c.stream, crops[e].images, config.patch, saved.patches.rows(first, count));
    first += count;
    const TensorView table = token_table(vit, c, w, plan.position_maps[e], patch_count(entry));
    c.ops.gather_rows(c.stream, table, plan.table_rows[e],
                      x.rows(entry.first_row, entry.batch * entry.tokens));
  }
  add_patches(vit, c, w, plan, saved, x);
  add_mask_token(vit, c, w, saved, x);
  if (config.input_norm) normalise_tokens(vit, c, w, x, saved, keep);
}

void embed_backward(const VitContext& vit, const Context& c, const UnitView& w, const EmbedSaved& saved,
                    const TokenPlan& plan, ConstTensorView d_tokens, const UnitGradient& d,
                    std::span<const TensorView> d_images) {
  DINO_CHECK(d_images.empty() || d_images.size() == plan.entries.size(), "one image gradient per entry");
  const Arena::Scope scope(c.arena);
  ConstTensorView dx = d_tokens;
  if (vit.config.input_norm) {
    const TensorView before = c.arena.zeros(c.stream, d_tokens.shape);
    c.ops.layer_norm_backward(c.stream, d_tokens, saved.tokens, w(vit.input_norm.weight), saved.mean,
                              saved.rstd, {}, before, d(vit.input_norm.weight), d(vit.input_norm.bias));
    dx = before;
  }
  for (size_t e = 0; e < plan.entries.size(); ++e)
    if (plan.entries[e].batch > 0) table_backward(vit, c, plan, e, dx, d);
  mask_token_backward(vit, c, saved, dx, d);
  if (plan.patch_rows.empty()) return;
  const TensorView d_embedded = c.arena.make({saved.patches.dim(0), vit.config.width}, c.act());
  c.ops.gather_rows(c.stream, dx, plan.device_patch_rows, d_embedded);
  if (saved.masked) c.ops.zero_rows(c.stream, d_embedded, saved.masked);
  c.ops.linear_backward_weight(c.stream, d_embedded, saved.patches, as_matrix(d(vit.embed.proj_weight)),
                               d(vit.embed.proj_bias));
  if (!d_images.empty()) image_backward(vit, c, w, plan, d_embedded, saved.patches.dim(1), d_images);
}

}  // namespace dino
