// SPDX-License-Identifier: Apache-2.0
// Names, sizes and layouts of the backbones.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/cpu.hpp"
#include "model/vit_parts.hpp"

namespace dino {
namespace {

VitConfig sized(int64_t width, int64_t depth, int64_t heads, int64_t patch, int64_t grid) {
  VitConfig config;
  config.width = width;
  config.depth = depth;
  config.heads = heads;
  config.patch = patch;
  config.position_grid = grid;
  config.hidden = 4 * width;
  return config;
}

VitConfig with_swiglu(VitConfig config) {
  config.ffn = FfnKind::swiglu;
  config.hidden = swiglu_hidden(config.width);
  return config;
}

/// arXiv 2309.16588: four registers; their released models resample positions by target size with antialias.
VitConfig with_registers(VitConfig config) {
  config.registers = 4;
  config.position_kernel = PositionKernel::antialias;
  config.interpolate_offset = 0.0;
  return config;
}

struct Preset {
  const char* name;
  VitConfig config;
};

/// The released models keep a table for 518 px (37 x 37 patches of 14); configurations that are trained from
/// scratch keep one for their global crop of 224 px.
const std::vector<Preset>& presets() {
  static const std::vector<Preset> table = [] {
    const VitConfig small = sized(384, 12, 6, 14, 37);
    const VitConfig base = sized(768, 12, 12, 14, 37);
    const VitConfig large = sized(1024, 24, 16, 14, 37);
    const VitConfig giant = with_swiglu(sized(1536, 40, 24, 14, 37));
    return std::vector<Preset>{{"vits14", small},
                               {"vitb14", base},
                               {"vitl14", large},
                               {"vitg14", giant},
                               {"vits14_reg", with_registers(small)},
                               {"vitb14_reg", with_registers(base)},
                               {"vitl14_reg", with_registers(large)},
                               {"vitg14_reg", with_registers(giant)},
                               {"vitl14_scratch", with_swiglu(sized(1024, 24, 16, 14, 16))},
                               {"vitl16", sized(1024, 24, 16, 16, 14)},
                               {"vit_tiny", sized(192, 12, 3, 16, 14)},
                               {"vit_demo", sized(128, 4, 2, 8, 8)},
                               {"vit_micro", sized(64, 2, 1, 8, 8)}};
  }();
  return table;
}

void add_embedding(ParameterLayout& layout, const VitConfig& config, const std::string& module) {
  const int64_t width = config.width;
  const int64_t patches = config.position_grid * config.position_grid;
  const Init normal{Init::Kind::normal, 0.02F};
  // torch's default for Conv2d, kaiming_uniform(a = sqrt 5): +-1/sqrt(fan_in), for weight and bias.
  const Init uniform{Init::Kind::uniform,
                     static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.channels * config.patch *
                                                                            config.patch)))};
  layout.begin_unit(module + ".embed", module);
  layout.add(module + ".cls_token", {1, 1, width}, {Init::Kind::normal, 1e-6F});
  layout.add(module + ".pos_embed", {1, 1 + patches, width}, normal);
  if (config.registers > 0)
    layout.add(module + ".register_tokens", {1, config.registers, width}, {Init::Kind::normal, 1e-6F});
  layout.add(module + ".mask_token", {1, width}, {});
  layout.add(module + ".patch_embed.proj.weight", {width, config.channels, config.patch, config.patch},
             uniform);
  layout.add(module + ".patch_embed.proj.bias", {width}, uniform);
  if (!config.input_norm) return;
  layout.add(module + ".norm_pre.weight", {width}, {Init::Kind::constant, 1.0F});
  layout.add(module + ".norm_pre.bias", {width}, {});
}

}  // namespace

void append_block_layout(ParameterLayout& layout, const VitConfig& config, const std::string& module,
                         int64_t index) {
  const int64_t width = config.width;
  const std::string block = fmt::format("{}.blocks.{}", module, index);
  // trunc_normal_(std = .02) cuts at +-2 absolute, 100 standard deviations: a plain normal.
  const Init normal{Init::Kind::normal, 0.02F};
  const Init zero;
  const Init one{Init::Kind::constant, 1.0F};
  const Init scale{Init::Kind::constant, static_cast<float>(config.layerscale)};
  const auto add_linear = [&](const std::string& name, int64_t out, int64_t in) {
    layout.add(block + name + ".weight", {out, in}, normal);
    layout.add(block + name + ".bias", {out}, zero);
  };
  const auto add_norm = [&](const std::string& name) {
    layout.add(block + name + ".weight", {width}, one);
    layout.add(block + name + ".bias", {width}, zero);
  };
  layout.begin_unit(block, module);
  add_norm(".norm1");
  add_linear(".attn.qkv", 3 * width, width);
  add_linear(".attn.proj", width, width);
  if (config.layerscale != 0) layout.add(block + ".ls1.gamma", {width}, scale);
  add_norm(".norm2");
  if (config.ffn == FfnKind::mlp) {
    add_linear(".mlp.fc1", config.hidden, width);
    add_linear(".mlp.fc2", width, config.hidden);
  } else {
    add_linear(".mlp.w12", 2 * config.hidden, width);
    add_linear(".mlp.w3", width, config.hidden);
  }
  if (config.layerscale != 0) layout.add(block + ".ls2.gamma", {width}, scale);
}

int64_t swiglu_hidden(int64_t width) {
  const auto two_thirds = static_cast<int64_t>(static_cast<double>(4 * width) * 2 / 3);
  return (two_thirds + 7) / 8 * 8;
}

VitConfig vit_preset(const std::string& name) {
  for (const Preset& preset : presets())
    if (name == preset.name) return preset.config;
  throw UsageError(fmt::format("unknown model: {}: no such preset; choose one of {}", name,
                               fmt::join(vit_preset_names(), ", ")));
}

std::vector<std::string> vit_preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.emplace_back(preset.name);
  return names;
}

void append_vit_layout(ParameterLayout& layout, const VitConfig& config, const std::string& module) {
  add_embedding(layout, config, module);
  for (int64_t i = 0; i < config.depth; ++i) append_block_layout(layout, config, module, i);
  layout.begin_unit(module + ".norm", module);
  layout.add(module + ".norm.weight", {config.width}, {Init::Kind::constant, 1.0F});
  layout.add(module + ".norm.bias", {config.width}, {});
  if (config.projection == 0) return;
  const auto spread = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.width)));
  layout.add(module + ".projection.weight", {config.projection, config.width}, {Init::Kind::normal, spread});
}

int64_t vit_parameter_count(const VitConfig& config) {
  ParameterLayout layout;
  append_vit_layout(layout, config);
  return layout.count();
}

}  // namespace dino
