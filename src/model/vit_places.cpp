// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "model/vit_parts.hpp"

namespace dino {

VitContext::VitContext(const VitConfig& settings, std::string of_module)
    : config(settings), module(std::move(of_module)) {
  VitConfig one_block = config;
  one_block.depth = 1;
  ParameterLayout layout;
  append_vit_layout(layout, one_block, module);
  const auto at = [&](const char* name) { return place_of(layout, module + name); };
  const auto norm_at = [&](const std::string& name) {
    return NormPlaces{at((name + ".weight").c_str()), at((name + ".bias").c_str())};
  };
  embed = {at(".cls_token"),
           at(".pos_embed"),
           at(".register_tokens"),
           at(".mask_token"),
           at(".patch_embed.proj.weight"),
           at(".patch_embed.proj.bias")};
  const bool mlp = config.ffn == FfnKind::mlp;
  block.norm1 = norm_at(".blocks.0.norm1");
  block.norm2 = norm_at(".blocks.0.norm2");
  block.qkv_weight = at(".blocks.0.attn.qkv.weight");
  block.qkv_bias = at(".blocks.0.attn.qkv.bias");
  block.proj_weight = at(".blocks.0.attn.proj.weight");
  block.proj_bias = at(".blocks.0.attn.proj.bias");
  block.gamma1 = at(".blocks.0.ls1.gamma");
  block.in_weight = at(mlp ? ".blocks.0.mlp.fc1.weight" : ".blocks.0.mlp.w12.weight");
  block.in_bias = at(mlp ? ".blocks.0.mlp.fc1.bias" : ".blocks.0.mlp.w12.bias");
  block.out_weight = at(mlp ? ".blocks.0.mlp.fc2.weight" : ".blocks.0.mlp.w3.weight");
  block.out_bias = at(mlp ? ".blocks.0.mlp.fc2.bias" : ".blocks.0.mlp.w3.bias");
  block.gamma2 = at(".blocks.0.ls2.gamma");
  norm = norm_at(".norm");
  input_norm = norm_at(".norm_pre");
  projection = at(".projection.weight");
}

int64_t VitContext::embed_unit(const ParameterLayout& layout) const {
  return layout.find(module + ".cls_token").unit;
}

}  // namespace dino
