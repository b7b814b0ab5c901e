// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <string>
#include <string_view>

#include "training/ssl.hpp"

namespace dino {
namespace {

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// Depth of a parameter for the layer-wise decay: 0 = embedding, i + 1 = block i, depth + 1 = all that
/// follows (final norm, heads).
int64_t layer_of(const std::string& name, int64_t depth) {
  if (!name.starts_with("backbone.")) return depth + 1;
  for (const char* part : {".pos_embed", ".patch_embed", ".mask_token", ".cls_token", ".register_tokens"})
    if (contains(name, part)) return 0;
  const size_t block = name.find(".blocks.");
  if (block == std::string::npos) return depth + 1;
  return std::stoll(name.substr(block + 8)) + 1;
}

}  // namespace

ParameterGroup parameter_group(const std::string& full_name, int64_t depth, double layer_decay,
                               double patch_embed_lr_mult) {
  ParameterGroup group;
  group.lr_multiplier = std::pow(layer_decay, static_cast<double>(depth + 1 - layer_of(full_name, depth)));
  if (contains(full_name, "patch_embed")) group.lr_multiplier *= patch_embed_lr_mult;
  if (full_name.ends_with(".bias") || contains(full_name, "norm") || contains(full_name, "gamma"))
    group.wd_multiplier = 0;
  group.is_last_layer = contains(full_name, "last_layer");
  return group;
}

}  // namespace dino
