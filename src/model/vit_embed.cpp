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

/// Sorts an entry's patches into visible and masked ones.
void sort_patches(const VitConfig& config, const CropBatch& crop, const TokenEntry& entry,
                  EmbedSaved& saved) {
  const int64_t patches = patch_count(entry);
  const uint8_t* mask = crop.masks ? crop.masks.as<uint8_t>() : nullptr;
  EmbedSaved::Entry result;
  result.begin = static_cast<int64_t>(saved.visible_rows.size());
  for (int64_t image = 0; image < entry.batch; ++image) {
    for (int64_t p = 0; p < patches; ++p) {
      const int64_t row = entry.patch_row(image, p, config.registers);
      if (mask != nullptr && mask[image * patches + p] != 0) {
        saved.masked_rows.push_back(row);
        continue;
      }
      saved.visible_rows.push_back(row);
      if (mask != nullptr) result.visible_patches.push_back(image * patches + p);
    }
  }
  result.count = static_cast<int64_t>(saved.visible_rows.size()) - result.begin;
  result.table_rows = table_rows(config, entry);
  saved.entries.push_back(std::move(result));
}

bool all_visible(const EmbedSaved::Entry& entry, const TokenEntry& tokens) {
  return entry.count == tokens.batch * patch_count(tokens);
}

void cut_patches(const VitContext& context, const CropBatch& crop, const TokenEntry& tokens,
                 const EmbedSaved::Entry& entry, TensorView patches, Arena& arena) {
  if (entry.count == 0) return;
  const TensorView visible = patches.rows(entry.begin, entry.count);
  if (all_visible(entry, tokens)) {
    ops::backend().patchify(crop.images, context.config.patch, visible);
    return;
  }
  const Arena::Scope scope(arena);
  const TensorView all = arena.make({tokens.batch * patch_count(tokens), patches.dim(1)}, context.act);
  ops::backend().patchify(crop.images, context.config.patch, all);
  ops::backend().gather_rows(all, entry.visible_patches, visible);
}

/// The patch projection as a matrix [D, C p p].
template <class View>
View as_matrix(View weight) {
  return weight.reshaped({weight.dim(0), weight.numel() / weight.dim(0)});
}

void add_visible(const VitContext& context, const ParameterStore& weights, const EmbedSaved& saved,
                 TensorView x, Arena& arena) {
  if (saved.visible_rows.empty()) return;
  const Arena::Scope scope(arena);
  const TensorView embedded = arena.make({saved.patches.dim(0), context.config.width}, context.act);
  ops::backend().linear(saved.patches, as_matrix(weights.view(context.name(".patch_embed.proj.weight"))),
                        weights.view(context.name(".patch_embed.proj.bias")), ops::Activation::none, embedded,
                        {});
  ops::backend().scaled_index_add(x, embedded, {}, 1.0F, saved.visible_rows);
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

void table_backward(const VitContext& context, const EmbedSaved::Entry& entry, const TokenEntry& tokens,
                    ConstTensorView dx, ParameterStore& gradients, Arena& arena) {
  const VitConfig& config = context.config;
  const Arena::Scope scope(arena);
  const int64_t positions = 1 + patch_count(tokens);
  const TensorView d_table = arena.zeros({positions + config.registers, config.width});
  ops::Backend& ops = ops::backend();
  ops.scatter_add_rows(dx.rows(tokens.first_row, tokens.batch * tokens.tokens), entry.table_rows, d_table);
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

/// d_patches f32 [U, C p p] of the visible patches -> the image's gradient; masked patches have none.
void image_backward(const VitContext& context, const EmbedSaved::Entry& entry, const TokenEntry& tokens,
                    ConstTensorView d_patches, TensorView d_image, Arena& arena) {
  const Arena::Scope scope(arena);
  if (entry.count == 0) {
    d_image.zero();
    return;
  }
  const ConstTensorView visible = d_patches.rows(entry.begin, entry.count);
  if (all_visible(entry, tokens)) {
    ops::backend().patchify_backward(visible, context.config.patch, d_image);
    return;
  }
  const TensorView all = arena.zeros({tokens.batch * patch_count(tokens), d_patches.dim(1)});
  ops::backend().scatter_add_rows(visible, entry.visible_patches, all);
  ops::backend().patchify_backward(all, context.config.patch, d_image);
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

void embed_forward(const VitContext& context, const ParameterStore& weights, std::span<const CropBatch> crops,
                   std::span<const TokenEntry> entries, TensorView x, Arena& arena, EmbedSaved& saved,
                   bool keep) {
  const VitConfig& config = context.config;
  for (size_t e = 0; e < entries.size(); ++e) sort_patches(config, crops[e], entries[e], saved);
  const Shape patches{static_cast<int64_t>(saved.visible_rows.size()),
                      config.channels * config.patch * config.patch};
  if (keep) saved.patches = arena.make(patches, context.act);
  const Arena::Scope scope(arena);
  if (!keep) saved.patches = arena.make(patches, context.act);
  for (size_t e = 0; e < entries.size(); ++e) {
    cut_patches(context, crops[e], entries[e], saved.entries[e], saved.patches, arena);
    if (entries[e].batch == 0) continue;
    const TensorView table = token_table(context, weights, entries[e], arena);
    ops::backend().gather_rows(table, saved.entries[e].table_rows,
                               x.rows(entries[e].first_row, entries[e].batch * entries[e].tokens));
  }
  add_visible(context, weights, saved, x, arena);
  add_mask_token(context, weights, saved, x, arena);
}

void embed_backward(const VitContext& context, const ParameterStore& weights, const EmbedSaved& saved,
                    std::span<const TokenEntry> entries, ConstTensorView dx, ParameterStore& gradients,
                    Arena& arena, std::span<const TensorView> d_images) {
  DINO_CHECK(d_images.empty() || d_images.size() == entries.size(), "one image gradient per entry");
  const Arena::Scope scope(arena);
  for (size_t e = 0; e < entries.size(); ++e)
    if (entries[e].batch > 0) table_backward(context, saved.entries[e], entries[e], dx, gradients, arena);
  mask_token_backward(context, saved, dx, gradients, arena);
  const auto visible = static_cast<int64_t>(saved.visible_rows.size());
  const TensorView d_patches = arena.make({visible, saved.patches.dim(1)});
  if (visible > 0) {
    const TensorView d_embedded = arena.make({visible, context.config.width}, context.act);
    ops::backend().gather_rows(dx, saved.visible_rows, d_embedded);
    ops::backend().linear_backward_weight(d_embedded, saved.patches,
                                          as_matrix(gradients.view(context.name(".patch_embed.proj.weight"))),
                                          gradients.view(context.name(".patch_embed.proj.bias")));
    if (!d_images.empty()) {
      const TensorView d_act = arena.make(d_patches.shape, context.act);
      ops::backend().linear_backward_input(
          d_embedded, as_matrix(weights.view(context.name(".patch_embed.proj.weight"))), d_act, false);
      ops::backend().convert(d_act, d_patches);
    }
  }
  for (size_t e = 0; e < d_images.size(); ++e)
    if (d_images[e]) image_backward(context, saved.entries[e], entries[e], d_patches, d_images[e], arena);
}

}  // namespace dino
