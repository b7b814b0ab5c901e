// SPDX-License-Identifier: Apache-2.0
#include "training/tokens.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"

namespace dino {
namespace {

constexpr int64_t kFillQuantum = 64;

/// Rows of the images [begin, end) out of `groups` groups of `images` crops each, in one piece.
ConstTensorView crops_of(const Context& c, ConstTensorView crops, int64_t groups, int64_t images,
                         Range some) {
  if (some.size() == images) return device_view(c, crops);
  const TensorView piece =
      c.arena.make({groups * some.size(), crops.dim(1), crops.dim(2), crops.dim(3)}, crops.dtype);
  for (int64_t group = 0; group < groups; ++group)
    copy(c.stream, piece.rows(group * some.size(), some.size()),
         crops.rows(group * images + some.begin, some.size()));
  return piece;
}

}  // namespace

MaskedPatches masked_patches(const StepBatch& batch) {
  MaskedPatches masked;
  if (!batch.masks) return masked;
  const int64_t patches = batch.masks.dim(1);
  for (int64_t view = 0; view < batch.masks.dim(0); ++view) {
    const uint8_t* row = batch.masks.as<uint8_t>() + view * patches;
    const size_t first = masked.view.size();
    for (int64_t patch = 0; patch < patches; ++patch)
      if (row[patch] != 0) masked.add(view, patch, 0);
    const size_t count = masked.view.size() - first;
    std::fill_n(masked.weight.begin() + static_cast<std::ptrdiff_t>(first), count,
                1.0F / static_cast<float>(count == 0 ? 1 : count));
  }
  masked.masked = masked.count();
  const int64_t wanted = batch.masked_bound > 0
                             ? batch.masked_bound
                             : (masked.masked + kFillQuantum - 1) / kFillQuantum * kFillQuantum;
  const uint8_t* mask = batch.masks.as<uint8_t>();
  for (int64_t i = 0; i < batch.masks.numel() && masked.count() < wanted; ++i)
    if (mask[i] == 0) masked.add(i / patches, i % patches, 0);
  return masked;
}

MicroBatch micro_batch(const Context& c, const StepBatch& batch, Range images, bool local, bool masked) {
  MicroBatch micro;
  micro.images = images;
  micro.crops.push_back({crops_of(c, batch.global_crops, 2, batch.images, images), {}});
  if (masked && batch.masks) {
    const int64_t patches = batch.masks.dim(1);
    for (int64_t view = 0; view < 2; ++view) {
      const uint8_t* first = batch.masks.as<uint8_t>() + (view * batch.images + images.begin) * patches;
      micro.masks.insert(micro.masks.end(), first, first + images.size() * patches);
    }
    micro.crops[0].masks = view_of(micro.masks.data(), Shape{2 * images.size(), patches});
  }
  if (local && batch.local_crops)
    micro.crops.push_back(
        {crops_of(c, batch.local_crops, batch.local_crops.dim(0) / batch.images, batch.images, images), {}});
  return micro;
}

void TokenRows::add(int64_t token, int64_t packed) {
  if (runs_.empty() || runs_.back().token + runs_.back().count != token)
    runs_.push_back({token, static_cast<int64_t>(packed_.size()), 0});
  ++runs_.back().count;
  packed_.push_back(packed);
}

TokenRows::TokenRows(const Context& c, const VitConfig& config, const MicroBatch& micro, int64_t images,
                     int64_t local_crops, const MaskedPatches& masked) {
  const std::vector<TokenEntry> entries = token_entries(config, micro.crops);
  const Range own = micro.images;
  const int64_t n = own.size();
  for (int64_t crop = 0; crop < local_crops; ++crop)
    for (int64_t i = 0; i < n; ++i) add(crop * images + own.begin + i, entries[1].cls_row(crop * n + i));
  const int64_t first_global = local_crops * images;
  for (int64_t view = 0; view < 2; ++view)
    for (int64_t i = 0; i < n; ++i)
      add(first_global + view * images + own.begin + i, entries[0].cls_row(view * n + i));
  const int64_t first_patch = first_global + 2 * images;
  for (size_t i = 0; i < masked.view.size(); ++i) {
    const int64_t view = masked.view[i] / images, image = masked.view[i] % images;
    if (image < own.begin || image >= own.end) continue;
    add(first_patch + static_cast<int64_t>(i),
        entries[0].patch_row(view * n + image - own.begin, masked.patch[i], config.registers));
  }
  read_ = packed_;
  std::sort(read_.begin(), read_.end());
  device_rows_ = c.arena.upload(c.stream, std::span<const int64_t>(packed_));
}

void TokenRows::take(const Context& c, ConstTensorView packed, const BatchTokens& tokens) const {
  for (const Run& run : runs_)
    c.ops.gather_rows(c.stream, packed, device_rows_.rows(run.first, run.count),
                      tokens.all.rows(run.token, run.count));
}

void TokenRows::put(const Context& c, const BatchTokens& tokens, TensorView packed) const {
  for (const Run& run : runs_)
    c.ops.scatter_add_rows(c.stream, tokens.all.rows(run.token, run.count),
                           device_rows_.rows(run.first, run.count), packed);
}

}  // namespace dino
