// SPDX-License-Identifier: Apache-2.0
// Tokens: [cls + pos_0, registers, patches + pos]; a masked patch is the mask token + its pos; registers get
// no position.
#include <cstring>

#include "model/vit_parts.hpp"

namespace dino {
namespace {

int64_t patch_count(const TokenEntry& entry) {
  return entry.grid_h * entry.grid_w;
}

/// f32 [1 + N + R, D]: cls, patch positions, registers. In this order the positions are one block.
TensorView token_table(const VitContext& context, const ParameterStore& weights, const TokenEntry& entry,
                       Arena& arena) {
  const VitConfig& config = context.config;
  const int64_t positions = 1 + patch_count(entry);
  TensorView table = arena.make({positions + config.registers, config.width});
  interpolate_positions(weights.view(context.name(".pos_embed")), config, entry.grid_h, entry.grid_w,
                        table.rows(0, positions));
  ops::backend().axpy(1.0F, weights.view(context.name(".cls_token")), table.rows(0, 1));
  if (config.registers > 0) {
    const ConstTensorView registers = weights.view(context.name(".register_tokens"));
    std::memcpy(table.rows(positions, config.registers).data, registers.data,
                static_cast<size_t>(registers.numel()) * sizeof(float));
  }
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
void find_masked(std::span<const CropBatch> crops, const TokenPlan& plan, EmbedSaved& saved) {
  saved.masked.clear();
  saved.masked_rows.clear();
  int64_t first = 0;
  for (size_t e = 0; e < crops.size(); ++e) {
    const int64_t count = plan.entries[e].batch * patch_count(plan.entries[e]);
    if (crops[e].masks) {
      const uint8_t* mask = crops[e].masks.as<uint8_t>();
      for (int64_t i = 0; i < count; ++i) {
        if (mask[i] == 0) continue;
        saved.masked.push_back(first + i);
        saved.masked_rows.push_back(plan.patch_rows[static_cast<size_t>(first + i)]);
      }
    }
    first += count;
  }
}

void clear_rows(TensorView x, std::span<const int64_t> rows) {
  for (const int64_t row : rows) x.rows(row, 1).zero();
}

/// The patch projection as a matrix [D, C p p].
template <class View>
View as_matrix(View weight) {
  return weight.reshaped({weight.dim(0), weight.numel() / weight.dim(0)});
}

void add_patches(const VitContext& context, const ParameterStore& weights, const TokenPlan& plan,
                 const EmbedSaved& saved, TensorView x, Arena& arena) {
  if (plan.patch_rows.empty()) return;
  const Arena::Scope scope(arena);
  const TensorView embedded = arena.make({saved.patches.dim(0), context.config.width}, context.act);
  ops::backend().linear(saved.patches, as_matrix(weights.view(context.name(".patch_embed.proj.weight"))),
                        weights.view(context.name(".patch_embed.proj.bias")), ops::Activation::none, embedded,
                        {});
  clear_rows(embedded, saved.masked);
  ops::backend().scaled_index_add(x, embedded, {}, 1.0F, plan.patch_rows);
}

void add_mask_token(const VitContext& context, const ParameterStore& weights, const EmbedSaved& saved,
                    TensorView x, Arena& arena) {
  if (saved.masked_rows.empty()) return;
  const Arena::Scope scope(arena);
  const auto count = static_cast<int64_t>(saved.masked_rows.size());
  const TensorView tokens = arena.make({count, context.config.width});
  const std::vector<int64_t> first(saved.masked_rows.size(), 0);
  ops::backend().gather_rows(weights.view(context.name(".mask_token")), first, tokens);
  ops::backend().scaled_index_add(x, tokens, {}, 1.0F, saved.masked_rows);
}

void table_backward(const VitContext& context, std::span<const int64_t> table_rows, const TokenEntry& tokens,
                    ConstTensorView dx, ParameterStore& gradients, Arena& arena) {
  const VitConfig& config = context.config;
  const Arena::Scope scope(arena);
  const int64_t positions = 1 + patch_count(tokens);
  const TensorView d_table = arena.zeros({positions + config.registers, config.width});
  ops::Backend& ops = ops::backend();
  ops.scatter_add_rows(dx.rows(tokens.first_row, tokens.batch * tokens.tokens), table_rows, d_table);
  ops.axpy(1.0F, d_table.rows(0, 1), gradients.view(context.name(".cls_token")));
  if (config.registers > 0)
    ops.axpy(1.0F, d_table.rows(positions, config.registers),
             gradients.view(context.name(".register_tokens")));
  interpolate_positions_backward(d_table.rows(0, positions), config, tokens.grid_h, tokens.grid_w,
                                 gradients.view(context.name(".pos_embed")));
}

void mask_token_backward(const VitContext& context, const EmbedSaved& saved, ConstTensorView dx,
                         ParameterStore& gradients, Arena& arena) {
  if (saved.masked_rows.empty()) return;
  const Arena::Scope scope(arena);
  const TensorView d_masked =
      arena.make({static_cast<int64_t>(saved.masked_rows.size()), context.config.width});
  ops::backend().gather_rows(dx, saved.masked_rows, d_masked);
  ops::backend().weighted_column_sums(d_masked, {}, gradients.view(context.name(".mask_token")));
}

/// d_embedded act [P, D] -> the gradients of the images.
void image_backward(const VitContext& context, const ParameterStore& weights, const TokenPlan& plan,
                    ConstTensorView d_embedded, int64_t columns, std::span<const TensorView> d_images,
                    Arena& arena) {
  const Arena::Scope scope(arena);
  const Shape shape{d_embedded.dim(0), columns};
  const TensorView d_act = arena.make(shape, context.act);
  const TensorView d_patches = arena.make(shape);
  ops::backend().linear_backward_input(
      d_embedded, as_matrix(weights.view(context.name(".patch_embed.proj.weight"))), d_act, false);
  ops::backend().convert(d_act, d_patches);
  int64_t first = 0;
  for (size_t e = 0; e < d_images.size(); ++e) {
    const int64_t count = plan.entries[e].batch * patch_count(plan.entries[e]);
    if (d_images[e] && count > 0)
      ops::backend().patchify_backward(d_patches.rows(first, count), context.config.patch, d_images[e]);
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

std::shared_ptr<const TokenPlan> make_token_plan(const VitConfig& config, std::vector<TokenEntry> entries) {
  auto plan = std::make_shared<TokenPlan>();
  plan->everything = all_rows(entries);
  for (const TokenEntry& entry : entries) {
    plan->table_rows.push_back(table_rows(config, entry));
    for (int64_t image = 0; image < entry.batch; ++image)
      for (int64_t p = 0; p < patch_count(entry); ++p)
        plan->patch_rows.push_back(entry.patch_row(image, p, config.registers));
  }
  plan->entries = std::move(entries);
  return plan;
}

void embed_forward(const VitContext& context, const ParameterStore& weights, std::span<const CropBatch> crops,
                   const TokenPlan& plan, TensorView x, Arena& arena, EmbedSaved& saved, bool keep) {
  const VitConfig& config = context.config;
  find_masked(crops, plan, saved);
  const Shape patches{static_cast<int64_t>(plan.patch_rows.size()),
                      config.channels * config.patch * config.patch};
  if (keep) saved.patches = arena.make(patches, context.act);
  const Arena::Scope scope(arena);
  if (!keep) saved.patches = arena.make(patches, context.act);
  int64_t first = 0;
  for (size_t e = 0; e < plan.entries.size(); ++e) {
    const TokenEntry& entry = plan.entries[e];
    if (entry.batch == 0) continue;
    const int64_t count = entry.batch * patch_count(entry);
    ops::backend().patchify(crops[e].images, config.patch, saved.patches.rows(first, count));
    first += count;
    const TensorView table = token_table(context, weights, entry, arena);
    ops::backend().gather_rows(table, plan.table_rows[e],
                               x.rows(entry.first_row, entry.batch * entry.tokens));
  }
  add_patches(context, weights, plan, saved, x, arena);
  add_mask_token(context, weights, saved, x, arena);
}

void embed_backward(const VitContext& context, const ParameterStore& weights, const EmbedSaved& saved,
                    const TokenPlan& plan, ConstTensorView dx, ParameterStore& gradients, Arena& arena,
                    std::span<const TensorView> d_images) {
  DINO_CHECK(d_images.empty() || d_images.size() == plan.entries.size(), "one image gradient per entry");
  const Arena::Scope scope(arena);
  for (size_t e = 0; e < plan.entries.size(); ++e)
    if (plan.entries[e].batch > 0)
      table_backward(context, plan.table_rows[e], plan.entries[e], dx, gradients, arena);
  mask_token_backward(context, saved, dx, gradients, arena);
  if (plan.patch_rows.empty()) return;
  const TensorView d_embedded = arena.make({saved.patches.dim(0), context.config.width}, context.act);
  ops::backend().gather_rows(dx, plan.patch_rows, d_embedded);
  clear_rows(d_embedded, saved.masked);
  ops::backend().linear_backward_weight(d_embedded, saved.patches,
                                        as_matrix(gradients.view(context.name(".patch_embed.proj.weight"))),
                                        gradients.view(context.name(".patch_embed.proj.bias")));
  if (!d_images.empty())
    image_backward(context, weights, plan, d_embedded, saved.patches.dim(1), d_images, arena);
}

}  // namespace dino
