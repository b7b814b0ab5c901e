// SPDX-License-Identifier: Apache-2.0
// The backbone's configuration as JSON. Reading is strict: a field that this version does not know would
// change the model if it were ignored.
#include <fmt/format.h>

#include <cmath>
#include <set>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "model/weights.hpp"

namespace dino {
namespace {

[[noreturn]] void fail_json(const std::string& source, const std::string& why) {
  throw DataError(fmt::format("bad model configuration: {}: {}", source, why));
}

struct Field {
  const OrderedJson& json;
  const std::string& source;
  std::set<std::string> known;

  const OrderedJson& get(const char* key) {
    known.insert(key);
    if (!json.contains(key)) fail_json(source, fmt::format("no field \"{}\"", key));
    return json.at(key);
  }
  int64_t size(const char* key, int64_t least) {
    const OrderedJson& value = get(key);
    if (!value.is_number_integer() || value.get<int64_t>() < least || value.get<int64_t>() > 1'000'000)
      fail_json(source, fmt::format("\"{}\" is not a size of at least {}", key, least));
    return value.get<int64_t>();
  }
  double number(const char* key, double low, double high) {
    const OrderedJson& value = get(key);
    if (!value.is_number() || !(value.get<double>() >= low && value.get<double>() <= high))
      fail_json(source, fmt::format("\"{}\" is not a number from {} to {}", key, low, high));
    return value.get<double>();
  }
  bool flag(const char* key) {
    const OrderedJson& value = get(key);
    if (!value.is_boolean()) fail_json(source, fmt::format("\"{}\" is not true or false", key));
    return value.get<bool>();
  }
  template <class T, size_t N>
  T choice(const char* key, const std::pair<const char*, T> (&table)[N]) {
    const OrderedJson& value = get(key);
    for (const auto& [name, chosen] : table)
      if (value.is_string() && value.get<std::string>() == name) return chosen;
    fail_json(source, fmt::format("\"{}\" is {}, which this version does not know", key, json_line(value)));
  }
};

constexpr std::pair<const char*, FfnKind> kFfn[] = {{"mlp", FfnKind::mlp}, {"swiglu", FfnKind::swiglu}};
constexpr std::pair<const char*, PositionKernel> kKernels[] = {{"scale_offset", PositionKernel::scale_offset},
                                                               {"antialias", PositionKernel::antialias},
                                                               {"target_size", PositionKernel::target_size}};

template <class T, size_t N>
const char* name_in(const std::pair<const char*, T> (&table)[N], T value) {
  for (const auto& [name, entry] : table)
    if (entry == value) return name;
  return "";
}

}  // namespace

std::string vit_config_to_json(const VitConfig& config) {
  OrderedJson json;
  json["patch"] = config.patch;
  json["width"] = config.width;
  json["depth"] = config.depth;
  json["heads"] = config.heads;
  json["ffn"] = name_in(kFfn, config.ffn);
  json["hidden"] = config.hidden;
  json["registers"] = config.registers;
  json["position_grid"] = config.position_grid;
  json["position_kernel"] = name_in(kKernels, config.position_kernel);
  json["interpolate_offset"] = config.interpolate_offset;
  json["layerscale"] = config.layerscale;
  json["drop_path"] = config.drop_path;
  json["drop_path_uniform"] = config.drop_path_uniform;
  json["norm_eps"] = config.norm_eps;
  json["channels"] = config.channels;
  // Of CLIP's alone: a version that does not know them reads all other models.
  if (config.quick_gelu) json["quick_gelu"] = true;
  if (config.input_norm) json["input_norm"] = true;
  if (config.projection > 0) json["projection"] = config.projection;
  return json_line(json);
}

VitConfig vit_config_from_json(const std::string& text, const std::string& source) {
  const OrderedJson json = OrderedJson::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) fail_json(source, "not a JSON object");
  Field field{json, source, {}};
  VitConfig config;
  config.patch = field.size("patch", 1);
  config.width = field.size("width", 1);
  config.depth = field.size("depth", 1);
  config.heads = field.size("heads", 1);
  config.ffn = field.choice("ffn", kFfn);
  config.hidden = field.size("hidden", 1);
  config.registers = field.size("registers", 0);
  config.position_grid = field.size("position_grid", 1);
  config.position_kernel = field.choice("position_kernel", kKernels);
  config.interpolate_offset = field.number("interpolate_offset", 0, 1);
  config.layerscale = field.number("layerscale", 0, 1e6);
  config.drop_path = field.number("drop_path", 0, 1);
  config.drop_path_uniform = field.flag("drop_path_uniform");
  config.norm_eps = field.number("norm_eps", 0, 1);
  config.channels = field.size("channels", 1);
  if (json.contains("quick_gelu")) config.quick_gelu = field.flag("quick_gelu");
  if (json.contains("input_norm")) config.input_norm = field.flag("input_norm");
  if (json.contains("projection")) config.projection = field.size("projection", 1);
  for (const auto& [key, value] : json.items())
    if (!field.known.contains(key))
      fail_json(source, fmt::format("unknown field \"{}\"; a newer version wrote it", key));
  if (config.width % config.heads != 0) fail_json(source, "\"width\" is not a multiple of \"heads\"");
  return config;
}

}  // namespace dino
