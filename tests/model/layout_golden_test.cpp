// SPDX-License-Identifier: Apache-2.0
// Names and shapes of every parameter of the reference's training configurations, backbone and heads.
#include <cmath>

#include "golden_support.hpp"
#include "model/head.hpp"
#include "model/vit.hpp"

namespace dino::golden {
namespace {

/// Dimensions by "<module>.<parameter>".
using Shapes = std::map<std::string, std::vector<int64_t>>;

/// By (configuration, module).
std::map<std::pair<std::string, std::string>, Shapes> read_shapes() {
  std::map<std::pair<std::string, std::string>, Shapes> modules;
  for (const auto& row : read_golden_csv("param_groups.csv")) {
    const std::string& module = row.at("module");
    std::istringstream dims(row.at("shape"));
    std::string dim;
    auto& parsed = modules[{row.at("config"), module}][module + "." + row.at("name")];
    while (std::getline(dims, dim, 'x')) parsed.push_back(std::stoll(dim));
  }
  return modules;
}

/// How many names or shapes differ.
int64_t differences(const ParameterLayout& layout, const Shapes& shapes, const std::string& title) {
  int64_t different =
      std::abs(static_cast<int64_t>(layout.parameters().size()) - static_cast<int64_t>(shapes.size()));
  for (const ParameterInfo& info : layout.parameters()) {
    const auto found = shapes.find(info.name);
    if (found != shapes.end() && info.shape == Shape(found->second)) continue;
    ADD_FAILURE() << title << ": " << info.name << " " << info.shape.str()
                  << (found == shapes.end() ? " is not a parameter of the reference" : " differs in shape");
    ++different;
  }
  return different;
}

/// What names and shapes tell; they do not depend on the number of heads.
VitConfig config_of(const Shapes& shapes) {
  VitConfig config;
  const auto& patches = shapes.at("backbone.patch_embed.proj.weight");
  config.width = patches.at(0);
  config.channels = patches.at(1);
  config.patch = patches.at(2);
  config.heads = 1;
  config.depth = 0;
  while (shapes.contains("backbone.blocks." + std::to_string(config.depth) + ".norm1.weight")) ++config.depth;
  config.position_grid =
      std::llround(std::sqrt(static_cast<double>(shapes.at("backbone.pos_embed").at(1) - 1)));
  const auto swiglu = shapes.find("backbone.blocks.0.mlp.w3.weight");
  config.ffn = swiglu != shapes.end() ? FfnKind::swiglu : FfnKind::mlp;
  config.hidden =
      (swiglu != shapes.end() ? swiglu->second : shapes.at("backbone.blocks.0.mlp.fc2.weight")).at(1);
  if (shapes.contains("backbone.register_tokens"))
    config.registers = shapes.at("backbone.register_tokens").at(1);
  if (!shapes.contains("backbone.blocks.0.ls1.gamma")) config.layerscale = 0;
  return config;
}

HeadConfig head_of(const Shapes& shapes, const std::string& module) {
  const bool bare = shapes.contains(module + ".mlp.weight");  // one layer
  const auto& first = shapes.at(module + (bare ? ".mlp.weight" : ".mlp.0.weight"));
  HeadConfig config;
  config.input = first.at(1);
  config.hidden = first.at(0);
  config.layers = static_cast<int64_t>(shapes.size() - 2) / 2;
  config.prototypes = shapes.at(module + ".last_layer.weight_v").at(0);
  config.bottleneck = shapes.at(module + ".last_layer.weight_v").at(1);
  return config;
}

TEST(LayoutGolden, NamesAndShapes) {
  Report report("param_groups.csv");
  for (const auto& [key, shapes] : read_shapes()) {
    const auto& [name, module] = key;
    ParameterLayout layout;
    if (module == "backbone") {
      append_vit_layout(layout, config_of(shapes));
    } else {
      append_head_layout(layout, head_of(shapes, module), module);
    }
    report.check("names and shapes of " + name + "." + module,
                 static_cast<double>(differences(layout, shapes, name)), 0);
  }
}

/// A preset of a recorded width, depth and patch, with as many registers, has the recorded shapes, except for
/// the size of the position table.
TEST(LayoutGolden, Presets) {
  for (const auto& [key, shapes] : read_shapes()) {
    if (key.second != "backbone") continue;
    const VitConfig recorded = config_of(shapes);
    for (const std::string& name : vit_preset_names()) {
      VitConfig preset = vit_preset(name);
      if (preset.width != recorded.width || preset.depth != recorded.depth || preset.ffn != recorded.ffn ||
          preset.patch != recorded.patch || preset.registers != recorded.registers)
        continue;
      preset.position_grid = recorded.position_grid;
      ParameterLayout layout;
      append_vit_layout(layout, preset);
      Report("param_groups.csv")
          .check("preset " + name + " as " + key.first,
                 static_cast<double>(differences(layout, shapes, name)), 0);
    }
  }
}

}  // namespace
}  // namespace dino::golden
