// SPDX-License-Identifier: Apache-2.0
// Weights for timm.create_model(NAME, checkpoint_path=...), which loads tensors as they are called: its names
// and shapes are written, and the call that makes a model of these sizes is told.
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <map>

#include "model/tensor_source.hpp"
#include "storage/array_file.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr int64_t kTimmSize = 518;  ///< of timm's DINOv2 models

/// The ratio that gives this hidden width: timm cuts width * ratio off to a whole number.
double ratio_of(int64_t hidden, int64_t width) {
  double ratio = static_cast<double>(hidden) / static_cast<double>(width);
  if (static_cast<int64_t>(static_cast<double>(width) * ratio) < hidden) ratio = std::nextafter(ratio, 1e9);
  return ratio;
}

/// timm's model of the nearest kind: sizes that it does not have are given as arguments.
struct TimmModel {
  std::string name;
  int64_t width, depth, heads;
};

TimmModel timm_model(const VitConfig& config) {
  const std::string reg = config.registers > 0 ? "_reg4" : "";
  if (config.ffn == FfnKind::swiglu) return {"vit_giant_patch14" + reg + "_dinov2", 1536, 40, 24};
  for (const auto& [name, width, depth, heads] :
       {TimmModel{"base", 768, 12, 12}, TimmModel{"large", 1024, 24, 16}})
    if (config.width == width && config.depth == depth)
      return {"vit_" + name + "_patch14" + reg + "_dinov2", width, depth, heads};
  return {"vit_small_patch14" + reg + "_dinov2", 384, 12, 6};
}

std::string timm_call(const VitConfig& config, const std::string& file) {
  const TimmModel model = timm_model(config);
  std::string call = fmt::format("timm.create_model('{}'", model.name);
  const auto argument = [&](const char* name, const auto& value) {
    call += fmt::format(", {}={}", name, value);
  };
  if (config.patch != 14) argument("patch_size", config.patch);
  if (config.position_grid * config.patch != kTimmSize)
    argument("img_size", config.position_grid * config.patch);
  if (config.width != model.width) argument("embed_dim", config.width);
  if (config.depth != model.depth) argument("depth", config.depth);
  if (config.heads != model.heads) argument("num_heads", config.heads);
  // SwiGLU's gate and value are one layer of twice the width there.
  const bool swiglu = config.ffn == FfnKind::swiglu;
  const bool usual = config.hidden == (swiglu ? swiglu_hidden(config.width) : 4 * config.width);
  if (!usual || (swiglu && config.width != model.width))
    argument("mlp_ratio", ratio_of(swiglu ? 2 * config.hidden : config.hidden, config.width));
  if (config.registers > 0 && config.registers != 4) argument("reg_tokens", config.registers);
  return call + fmt::format(", checkpoint_path='{}')", file);
}

}  // namespace

std::string export_timm(const Backbone& backbone, const std::string& folder) {
  const VitConfig& config = backbone.config;
  refuse_clip(config, folder, "timm's DINOv2");
  make_folders(folder);
  std::map<std::string, ConstTensorView> tensors;
  for (const ParameterInfo& info : backbone.layout.parameters()) {
    std::string name = info.name.substr(info.module.size() + 1);
    if (name == "mask_token") continue;  // a strict load knows none
    if (name == "register_tokens") name = "reg_token";
    for (const auto& [ours, theirs] :
         {std::pair(".mlp.w12.", ".mlp.fc1."), std::pair(".mlp.w3.", ".mlp.fc2.")})
      if (const size_t at = name.find(ours); at != std::string::npos)
        name.replace(at, std::strlen(ours), theirs);
    tensors.emplace(name, backbone.weights.view(info));
  }
  // Beside registers, only patches have positions there: the class token takes its own up.
  const ConstTensorView positions = backbone.weights.view("backbone.pos_embed");
  Tensor class_token(Shape{1, 1, config.width}), rest(Shape{1, positions.dim(1) - 1, config.width});
  if (config.registers > 0) {
    const auto token = backbone.weights.view("backbone.cls_token").f32(), table = positions.f32();
    for (size_t i = 0; i < token.size(); ++i) class_token.f32()[i] = token[i] + table[i];
    std::copy(table.begin() + config.width, table.end(), rest.f32().begin());
    tensors.insert_or_assign("cls_token", class_token.view());
    tensors.insert_or_assign("pos_embed", rest.view());
  }
  // timm's DINOv2 always has LayerScale; without it here, a gamma of one.
  Tensor ones(Shape{config.width});
  std::fill(ones.f32().begin(), ones.f32().end(), 1.0F);
  if (config.layerscale == 0)
    for (int64_t i = 0; i < config.depth; ++i)
      for (const char* part : {"ls1", "ls2"})
        tensors.emplace(fmt::format("blocks.{}.{}.gamma", i, part), ones.view());
  const std::string file = folder + "/timm.safetensors";
  VitConfig told = config;
  if (told.layerscale == 0) told.layerscale = 1;
  write_safetensors(file, {tensors.begin(), tensors.end()},
                    {{"heads", std::to_string(config.heads)}, {kConfigFact, vit_config_to_json(told)}});
  return timm_call(config, file);
}

}  // namespace dino
