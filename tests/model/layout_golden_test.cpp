// SPDX-License-Identifier: Apache-2.0
// Names and shapes of every parameter of the reference's training configurations, backbone and heads.
#include <cmath>
#include <fstream>
#include <sstream>

#include "golden_support.hpp"
#include "model/head.hpp"
#include "model/vit.hpp"

namespace dino::golden {
namespace {

/// "384x3x14x14" by parameter name.
using Shapes = std::map<std::string, std::vector<int64_t>>;

std::map<std::pair<std::string, std::string>, Shapes> read_shapes(const std::string& path) {
  std::map<std::pair<std::string, std::string>, Shapes> modules;
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  EXPECT_TRUE(line.starts_with("config,module,name,shape,")) << path << ": " << line;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string config, module, name, shape, dim;
    std::getline(fields, config, ',');
    std::getline(fields, module, ',');
    std::getline(fields, name, ',');
    std::getline(fields, shape, ',');
    std::istringstream dims(shape);
    auto& parsed = modules[{config, module}][module + "." + name];
    while (std::getline(dims, dim, 'x')) parsed.push_back(std::stoll(dim));
  }
  return modules;
}

void compare(const ParameterLayout& layout, const Shapes& shapes, const std::string& title) {
  EXPECT_EQ(layout.parameters().size(), shapes.size()) << title;
  for (const ParameterInfo& info : layout.parameters()) {
    const auto found = shapes.find(info.name);
    if (found == shapes.end()) {
      ADD_FAILURE() << title << ": the reference has no " << info.name;
      continue;
    }
    EXPECT_EQ(info.shape, Shape(found->second)) << title << " " << info.name;
  }
}

/// The preset of the same width, depth and feed-forward kind, with the recorded size of the position table.
VitConfig config_of(const Shapes& shapes) {
  const int64_t width = shapes.at("backbone.cls_token")[2];
  const bool swiglu = shapes.contains("backbone.blocks.0.mlp.w12.weight");
  for (const std::string& name : vit_preset_names()) {
    VitConfig config = vit_preset(name);
    if (config.width != width || (config.ffn == FfnKind::swiglu) != swiglu || config.registers != 0) continue;
    config.position_grid =
        std::llround(std::sqrt(static_cast<double>(shapes.at("backbone.pos_embed")[1] - 1)));
    return config;
  }
  ADD_FAILURE() << "no preset of width " << width;
  return {};
}

HeadConfig head_of(const Shapes& shapes, const std::string& module) {
  HeadConfig config;
  config.input = shapes.at(module + ".mlp.0.weight")[1];
  config.hidden = shapes.at(module + ".mlp.0.weight")[0];
  config.layers = static_cast<int64_t>(shapes.size() - 2) / 2;
  config.prototypes = shapes.at(module + ".last_layer.weight_v")[0];
  config.bottleneck = shapes.at(module + ".last_layer.weight_v")[1];
  return config;
}

TEST(LayoutGolden, NamesAndShapes) {
  const auto modules = read_shapes(golden_dir() + "/param_groups.csv");
  ASSERT_FALSE(modules.empty());
  for (const auto& [key, shapes] : modules) {
    ParameterLayout layout;
    if (key.second == "backbone") {
      append_vit_layout(layout, config_of(shapes));
    } else {
      append_head_layout(layout, head_of(shapes, key.second), key.second);
    }
    compare(layout, shapes, key.first);
    std::printf("layout %s %s: %zu parameters with their shapes\n", key.first.c_str(), key.second.c_str(),
                shapes.size());
  }
}

}  // namespace
}  // namespace dino::golden
