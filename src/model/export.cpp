// SPDX-License-Identifier: Apache-2.0
// Weights for other programs: transformers' folder layout, and the names of the reference's hub files.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "model/tensor_source.hpp"
#include "storage/array_file.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

/// The whole number that makes transformers' rule give the hidden width; 0 when there is none.
int64_t mlp_ratio_of(const VitConfig& config) {
  if (config.ffn == FfnKind::mlp) return config.hidden % config.width == 0 ? config.hidden / config.width : 0;
  for (int64_t ratio = 1; ratio * config.width * 2 / 3 <= config.hidden; ++ratio)
    if ((ratio * config.width * 2 / 3 + 7) / 8 * 8 == config.hidden) return ratio;
  return 0;
}

void check_writable(const VitConfig& config, const std::string& folder) {
  refuse_clip(config, folder, "transformers' DINOv2");
  if (mlp_ratio_of(config) == 0)
    throw DataError(fmt::format(
        "cannot export: {}: transformers has no way to say a hidden width of {} for {}; use the hub format",
        folder, config.hidden, config.width));
  const PositionKernel theirs =
      config.registers > 0 ? PositionKernel::antialias : PositionKernel::target_size;
  const double offset = config.position_kernel == PositionKernel::target_size ? 0 : config.interpolate_offset;
  if (config.position_kernel != theirs || offset != 0)
    log::warning(
        fmt::format("export: {}: transformers resamples positions another way: features agree at {} px only",
                    folder, config.position_grid * config.patch));
}

OrderedJson hugging_face_config(const VitConfig& config) {
  const bool registers = config.registers > 0;
  const bool swiglu = config.ffn == FfnKind::swiglu;
  std::vector<std::string> stages{"stem"};
  for (int64_t i = 1; i <= config.depth; ++i) stages.push_back(fmt::format("stage{}", i));
  OrderedJson json;
  json["apply_layernorm"] = true;
  json["architectures"] = OrderedJson::array({registers ? "Dinov2WithRegistersModel" : "Dinov2Model"});
  json["attention_probs_dropout_prob"] = 0.0;
  json["drop_path_rate"] = 0.0;
  json["hidden_act"] = "gelu";
  json["hidden_dropout_prob"] = 0.0;
  json["hidden_size"] = config.width;
  json["image_size"] = config.position_grid * config.patch;
  json["initializer_range"] = 0.02;
  json["layer_norm_eps"] = config.norm_eps;
  json["layerscale_value"] = config.layerscale == 0 ? 1.0 : config.layerscale;
  json["mlp_ratio"] = mlp_ratio_of(config);
  json["model_type"] = registers ? "dinov2_with_registers" : "dinov2";
  json["num_attention_heads"] = config.heads;
  json["num_channels"] = config.channels;
  json["num_hidden_layers"] = config.depth;
  if (registers) json["num_register_tokens"] = config.registers;
  json["out_features"] = OrderedJson::array({stages.back()});
  json["out_indices"] = OrderedJson::array({config.depth});
  json["patch_size"] = config.patch;
  json["qkv_bias"] = true;
  json["reshape_hidden_states"] = true;
  json["stage_names"] = stages;
  json["torch_dtype"] = "float32";
  if (!registers) json["use_mask_token"] = true;
  json["use_swiglu_ffn"] = swiglu;
  return json;
}

/// The processor of the published DINOv2 models, with this model's sizes and pixels.
OrderedJson preprocessor_config(const VitConfig& config, const Preparation& pixels) {
  const int64_t usual = std::min(config.position_grid, std::max<int64_t>(1, 224 / config.patch));
  const int64_t crop = pixels.size > 0 ? pixels.size : usual * config.patch;
  const int64_t edge = pixels.resize > 0 ? pixels.resize : (crop * 256 + 112) / 224;
  // Shortest digits: 0.485, and not 0.48500001430511475.
  const auto numbers = [](const std::array<float, 3>& values) {
    OrderedJson list = OrderedJson::array();
    for (const float value : values) list.push_back(std::stod(fmt::format("{}", value)));
    return list;
  };
  OrderedJson json;
  json["crop_size"] = {{"height", crop}, {"width", crop}};
  json["do_center_crop"] = true;
  json["do_convert_rgb"] = true;
  json["do_normalize"] = true;
  json["do_rescale"] = true;
  json["do_resize"] = true;
  json["image_mean"] = numbers(pixels.normalisation.mean);
  json["image_processor_type"] = "BitImageProcessor";
  json["image_std"] = numbers(pixels.normalisation.std);
  json["resample"] = 3;  // bicubic
  json["rescale_factor"] = 1.0 / 255.0;
  json["size"] = {{"shortest_edge", edge}};
  return json;
}

void write_preprocessor(const VitConfig& config, const Preparation& pixels, const std::string& folder) {
  write_file_atomically(folder + "/preprocessor_config.json",
                        json_text(preprocessor_config(config, pixels), 2) + "\n");
}

using NamedTensors = std::map<std::string, ConstTensorView>;

/// q, k and v are thirds of the rows of qkv.
void add_split(NamedTensors& tensors, const std::string& name, ConstTensorView joint) {
  const size_t at = name.find(".attn.qkv.");
  const std::string tail = name.substr(at + std::strlen(".attn.qkv."));
  const std::string block = hugging_face_name(name.substr(0, at) + ".");
  const int64_t rows = joint.dim(0) / 3;
  int64_t third = 0;
  for (const char* part : {"query", "key", "value"})
    tensors.emplace(fmt::format("{}attention.attention.{}.{}", block, part, tail),
                    joint.rows(rows * third++, rows));
}

/// Tensors do not tell the number of heads.
void write_tensors(const NamedTensors& tensors, const VitConfig& config, const std::string& folder,
                   std::map<std::string, std::string> metadata = {}) {
  metadata.emplace("heads", std::to_string(config.heads));
  write_safetensors(folder + "/model.safetensors", {tensors.begin(), tensors.end()}, metadata);
}

std::string plain_name(const ParameterInfo& info) {
  return info.name.substr(info.module.size() + 1);
}

}  // namespace

void refuse_clip(const VitConfig& config, const std::string& folder, const char* format) {
  if (config.quick_gelu || config.input_norm || config.projection > 0)
    throw DataError(
        fmt::format("cannot export: {}: {} has no place for the parts of a CLIP image tower; use the "
                    "hub format",
                    folder, format));
}

void export_hugging_face(const Backbone& backbone, const std::string& folder, const Preparation& pixels) {
  const VitConfig& config = backbone.config;
  check_writable(config, folder);
  if (pixels.pad.value_or(false))
    log::warning(
        fmt::format("export: {}: the model was trained on images padded to a square; transformers' processor "
                    "crops them: pad them before",
                    folder));
  make_folders(folder);
  NamedTensors tensors;
  for (const ParameterInfo& info : backbone.layout.parameters()) {
    const std::string name = plain_name(info);
    const ConstTensorView value = backbone.weights.view(info);
    if (name.find(".attn.qkv.") != std::string::npos)
      add_split(tensors, name, value);
    else
      tensors.emplace(hugging_face_name(name), value);
  }
  // transformers always has LayerScale; without it here, a gamma of one.
  Tensor ones;
  if (config.layerscale == 0) {
    ones = Tensor(Shape{config.width});
    std::fill(ones.f32().begin(), ones.f32().end(), 1.0F);
    for (int64_t i = 0; i < config.depth; ++i)
      for (const char* part : {"ls1", "ls2"})
        tensors.emplace(hugging_face_name(fmt::format("blocks.{}.{}.gamma", i, part)), ones.view());
  }
  write_tensors(tensors, config, folder);
  write_preprocessor(config, pixels, folder);
  write_file_atomically(folder + "/config.json", json_text(hugging_face_config(config), 2) + "\n");
}

void export_hub(const Backbone& backbone, const std::string& folder, const Preparation& pixels) {
  make_folders(folder);
  NamedTensors tensors;
  for (const ParameterInfo& info : backbone.layout.parameters())
    tensors.emplace(plain_name(info), backbone.weights.view(info));
  // Nor do they tell the epsilon of the norms and how positions are resampled.
  write_tensors(tensors, backbone.config, folder, {{kConfigFact, vit_config_to_json(backbone.config)}});
  write_preprocessor(backbone.config, pixels, folder);
}

}  // namespace dino
