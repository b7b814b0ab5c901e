// SPDX-License-Identifier: Apache-2.0
// Which tensors of a foreign file are the backbone's, what they are called here, and what their shapes say.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "model/tensor_source.hpp"
#include "storage/array_file.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

using Json = nlohmann::json;

[[noreturn]] void fail(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("bad weights: {}: {}", path, why));
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() <= 6 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// "blocks.2.13.norm1.weight" -> "blocks.13.norm1.weight".
std::string without_chunk(const std::string& name) {
  if (!name.starts_with("blocks.")) return name;
  const size_t first = name.find('.', 7);
  if (first == std::string::npos) return name;
  const size_t second = name.find('.', first + 1);
  if (second == std::string::npos || !is_number(name.substr(7, first - 7)) ||
      !is_number(name.substr(first + 1, second - first - 1)))
    return name;
  return "blocks." + name.substr(first + 1);
}

/// Presents `names` (new name -> old name) of a source.
TensorSource renamed(TensorSource source, std::map<std::string, std::string> names) {
  TensorSource result;
  result.path = source.path;
  for (const auto& [name, old] : names) result.shapes.emplace(name, source.shapes.at(old));
  result.read = [read = std::move(source.read), names = std::move(names)](const std::string& name) {
    return read(names.at(name));
  };
  return result;
}

const std::pair<const char*, const char*> kEmbeddingNames[] = {
    {"cls_token", "embeddings.cls_token"},
    {"mask_token", "embeddings.mask_token"},
    {"pos_embed", "embeddings.position_embeddings"},
    {"register_tokens", "embeddings.register_tokens"},
    {"patch_embed.proj.", "embeddings.patch_embeddings.projection."},
    {"norm.", "layernorm."},
};
const std::pair<const char*, const char*> kBlockNames[] = {
    {"norm1.", "norm1."},
    {"norm2.", "norm2."},
    {"attn.proj.", "attention.output.dense."},
    {"ls1.gamma", "layer_scale1.lambda1"},
    {"ls2.gamma", "layer_scale2.lambda1"},
    {"mlp.fc1.", "mlp.fc1."},
    {"mlp.fc2.", "mlp.fc2."},
    {"mlp.w12.", "mlp.weights_in."},
    {"mlp.w3.", "mlp.weights_out."},
};

template <size_t N>
std::optional<std::string> translated(const std::string& name,
                                      const std::pair<const char*, const char*> (&table)[N], bool forward) {
  for (const auto& [ours, theirs] : table) {
    const char* from = forward ? ours : theirs;
    if (name.starts_with(from)) return (forward ? theirs : ours) + name.substr(std::strlen(from));
  }
  return std::nullopt;
}

constexpr const char* kLayer = "encoder.layer.";
constexpr const char* kQuery = "attention.attention.query.";

/// query, key and value joined as the rows of one matrix or vector.
Tensor joined(const std::function<Tensor(const std::string&)>& read, const std::array<std::string, 3>& parts,
              const std::string& path) {
  std::array<Tensor, 3> pieces{read(parts[0]), read(parts[1]), read(parts[2])};
  const Shape& shape = pieces[0].shape();
  if (shape.rank() < 1 || pieces[1].shape() != shape || pieces[2].shape() != shape)
    fail(path, fmt::format("{} and its key and value differ in shape", parts[0]));
  Tensor result(shape.rank() == 1 ? Shape{3 * shape[0]}
                                  : Shape{3 * shape[0], shape.numel() / std::max<int64_t>(shape[0], 1)});
  float* out = result.as<float>();
  for (Tensor& piece : pieces) out = std::copy(piece.f32().begin(), piece.f32().end(), out);
  return result;
}

int64_t positive(const Json& json, const char* key, const std::string& path,
                 std::optional<int64_t> fallback = {}) {
  if (!json.contains(key) && fallback) return *fallback;
  if (!json.contains(key)) fail(path, fmt::format("no field \"{}\"", key));
  const Json& value = json.at(key);
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > 1'000'000)
    fail(path, fmt::format("\"{}\" is not a size", key));
  return value.get<int64_t>();
}

double number(const Json& json, const char* key, const std::string& path, double fallback) {
  if (!json.contains(key)) return fallback;
  if (!json.at(key).is_number()) fail(path, fmt::format("\"{}\" is not a number", key));
  return json.at(key).get<double>();
}

/// Number of blocks that the names mention.
int64_t depth_of(const TensorSource& source) {
  int64_t depth = 0;
  for (const auto& [name, shape] : source.shapes) {
    if (!name.starts_with("blocks.")) continue;
    const std::string index = name.substr(7, name.find('.', 7) - 7);
    if (is_number(index)) depth = std::max<int64_t>(depth, std::stoll(index) + 1);
  }
  return depth;
}

const std::vector<int64_t>& shape_of(const TensorSource& source, const std::string& name, size_t rank) {
  const auto found = source.shapes.find(name);
  if (found == source.shapes.end())
    fail(source.path, fmt::format("no tensor {}, so it is not a DINOv2 backbone", name));
  if (found->second.size() != rank)
    fail(source.path, fmt::format("{} does not have {} dimensions", name, rank));
  return found->second;
}

/// A training checkpoint of the reference may hold the student, the teacher or both.
void check_role(const TensorSource& source, const std::string& which) {
  std::set<std::string> roles;
  for (const auto& [name, shape] : source.shapes)
    for (const char* role : {"student", "teacher"})
      for (const char* outer : {"", "model."})
        if (name.starts_with(outer + std::string(role) + ".")) roles.insert(role);
  if (!roles.empty() && !roles.contains(which))
    fail(source.path, fmt::format("it holds a {} but no {}", *roles.begin(), which));
}

}  // namespace

TensorSource open_safetensors(const std::string& path) {
  auto file = std::make_shared<SafetensorsFile>(SafetensorsFile::open(path));
  TensorSource source;
  source.path = path;
  for (const auto& [name, entry] : file->entries()) source.shapes.emplace(name, entry.shape);
  source.read = [file](const std::string& name) { return file->read_f32(name); };
  return source;
}

TensorSource backbone_tensors(TensorSource source, const std::string& which) {
  std::map<std::string, std::string> names;
  for (const auto& [name, shape] : source.shapes) names.emplace(name, name);
  check_role(source, which);
  for (const std::string& prefix :
       {std::string("model."), which + ".", std::string("module."), std::string("backbone."),
        std::string("dinov2."), std::string("dinov2_with_registers.")}) {
    std::map<std::string, std::string> inner;
    for (const auto& [name, old] : names)
      if (name.starts_with(prefix)) inner.emplace(name.substr(prefix.size()), old);
    if (!inner.empty()) names = std::move(inner);
  }
  std::map<std::string, std::string> plain;
  for (const auto& [name, old] : names) {
    if (!plain.emplace(without_chunk(name), old).second)
      fail(source.path, fmt::format("two tensors are called {}", without_chunk(name)));
  }
  return renamed(std::move(source), std::move(plain));
}

bool has_hugging_face_names(const TensorSource& source) {
  return source.has("embeddings.patch_embeddings.projection.weight");
}

std::string hugging_face_name(const std::string& name) {
  if (!name.starts_with("blocks.")) return translated(name, kEmbeddingNames, true).value_or(name);
  const size_t dot = name.find('.', 7);
  const std::string inner = name.substr(dot + 1);
  return kLayer + name.substr(7, dot - 7) + "." + translated(inner, kBlockNames, true).value_or(inner);
}

TensorSource with_reference_names(TensorSource source) {
  std::map<std::string, std::string> names;
  std::map<std::string, std::array<std::string, 3>> joins;
  TensorSource result;
  result.path = source.path;
  for (const auto& [name, shape] : source.shapes) {
    if (!name.starts_with(kLayer)) {
      if (const auto ours = translated(name, kEmbeddingNames, false)) names.emplace(*ours, name);
      continue;
    }
    const size_t begin = std::strlen(kLayer);
    const size_t dot = name.find('.', begin);
    if (dot == std::string::npos) continue;
    const std::string block = "blocks." + name.substr(begin, dot - begin) + ".";
    const std::string inner = name.substr(dot + 1);
    if (const auto ours = translated(inner, kBlockNames, false)) names.emplace(block + *ours, name);
    if (!inner.starts_with(kQuery)) continue;
    const std::string tail = inner.substr(std::strlen(kQuery));
    const std::string head = name.substr(0, dot + 1) + "attention.attention.";
    const std::array<std::string, 3> parts{head + "query." + tail, head + "key." + tail,
                                           head + "value." + tail};
    if (!source.has(parts[1]) || !source.has(parts[2])) fail(source.path, "no key or value beside " + name);
    joins.emplace(block + "attn.qkv." + tail, parts);
    std::vector<int64_t> joint = shape;
    if (!joint.empty()) joint[0] *= 3;
    result.shapes.emplace(block + "attn.qkv." + tail, joint);
  }
  for (const auto& [name, old] : names) result.shapes.emplace(name, source.shapes.at(old));
  result.read = [read = std::move(source.read), names = std::move(names), joins = std::move(joins),
                 path = source.path](const std::string& name) {
    const auto join = joins.find(name);
    return join == joins.end() ? read(names.at(name)) : joined(read, join->second, path);
  };
  return result;
}

VitConfig read_hugging_face_config(const std::string& path) {
  const Json json = Json::parse(read_text(path), nullptr, false);
  if (json.is_discarded() || !json.is_object()) fail(path, "not a JSON object");
  const auto flag = [&](const char* key, bool fallback) {
    if (!json.contains(key)) return fallback;
    if (!json.at(key).is_boolean()) fail(path, fmt::format("\"{}\" is not true or false", key));
    return json.at(key).get<bool>();
  };
  const auto text = [&](const char* key, const char* fallback) {
    return json.contains(key) && json.at(key).is_string() ? json.at(key).get<std::string>()
                                                          : std::string(fallback);
  };
  const std::string type = text("model_type", "");
  if (type != "dinov2" && type != "dinov2_with_registers")
    fail(path, fmt::format("model_type is \"{}\"; only dinov2 and dinov2_with_registers are read", type));
  if (text("hidden_act", "gelu") != "gelu") fail(path, "hidden_act is not gelu");
  VitConfig config;
  config.width = positive(json, "hidden_size", path);
  config.depth = positive(json, "num_hidden_layers", path);
  config.heads = positive(json, "num_attention_heads", path);
  config.patch = positive(json, "patch_size", path);
  config.channels = positive(json, "num_channels", path, 3);
  const int64_t image = positive(json, "image_size", path);
  if (config.patch == 0 || image % config.patch != 0)
    fail(path, "image_size is not a multiple of patch_size");
  if (config.heads == 0 || config.width % config.heads != 0)
    fail(path, "hidden_size is not a multiple of num_attention_heads");
  config.position_grid = image / config.patch;
  const auto inner =
      static_cast<int64_t>(static_cast<double>(config.width) * number(json, "mlp_ratio", path, 4));
  config.ffn = flag("use_swiglu_ffn", false) ? FfnKind::swiglu : FfnKind::mlp;
  config.hidden = config.ffn == FfnKind::swiglu
                      ? (static_cast<int64_t>(static_cast<double>(inner) * 2 / 3) + 7) / 8 * 8
                      : inner;
  config.norm_eps = number(json, "layer_norm_eps", path, 1e-6);
  config.layerscale = number(json, "layerscale_value", path, 1.0);
  if (config.layerscale == 0) config.layerscale = 1.0;  // the file has the parameter whatever it started from
  config.interpolate_offset = 0;
  config.position_kernel = PositionKernel::target_size;
  if (type == "dinov2_with_registers") {
    config.registers = positive(json, "num_register_tokens", path, 4);
    config.position_kernel = PositionKernel::antialias;
  }
  return config;
}

VitConfig infer_config(const TensorSource& source) {
  VitConfig config;
  const auto& patch = shape_of(source, "patch_embed.proj.weight", 4);
  const auto& positions = shape_of(source, "pos_embed", 3);
  config.width = patch[0];
  config.channels = patch[1];
  config.patch = patch[2];
  config.depth = depth_of(source);
  const int64_t cells = positions[1] - 1;
  config.position_grid = std::llround(std::sqrt(static_cast<double>(std::max<int64_t>(cells, 0))));
  if (cells < 1 || config.position_grid * config.position_grid != cells)
    fail(source.path, fmt::format("pos_embed has {} cells, which is no square table", cells));
  // All DINOv2 models have heads of width 64; tensors do not tell.
  if (config.width % 64 != 0)
    fail(source.path,
         fmt::format("width {} is no multiple of the head width 64; a folder with config.json tells "
                     "the number of heads",
                     config.width));
  config.heads = config.width / 64;
  if (source.has("blocks.0.mlp.w3.weight")) {
    config.ffn = FfnKind::swiglu;
    config.hidden = shape_of(source, "blocks.0.mlp.w3.weight", 2)[1];
  } else {
    config.hidden = shape_of(source, "blocks.0.mlp.fc2.weight", 2)[1];
  }
  if (!source.has("blocks.0.ls1.gamma")) config.layerscale = 0;
  if (source.has("register_tokens")) {
    config.registers = shape_of(source, "register_tokens", 3)[1];
    config.position_kernel = PositionKernel::antialias;
    config.interpolate_offset = 0;
  }
  return config;
}

std::unique_ptr<Backbone> backbone_of(const VitConfig& config, const TensorSource& source) {
  if (const int64_t depth = depth_of(source); depth != config.depth)
    fail(source.path, fmt::format("{} blocks where the configuration says {}", depth, config.depth));
  auto backbone = std::make_unique<Backbone>();
  backbone->config = config;
  append_vit_layout(backbone->layout, config);
  // Shapes are compared before memory for the model is taken.
  for (const ParameterInfo& info : backbone->layout.parameters()) {
    const std::string name = info.name.substr(std::strlen("backbone."));
    if (name == "mask_token" && !source.has(name)) continue;  // left out by models without one: zero
    if (!source.has(name)) fail(source.path, fmt::format("no tensor {}", name));
    const std::vector<int64_t>& shape = source.shapes.at(name);
    if (shape.size() > Shape::kMaxRank || Shape(shape) != info.shape)
      fail(source.path, fmt::format("{} has another shape than the model's {}", name, info.shape.str()));
  }
  backbone->weights = ParameterStore(backbone->layout);
  for (const ParameterInfo& info : backbone->layout.parameters()) {
    const std::string name = info.name.substr(std::strlen("backbone."));
    if (!source.has(name)) continue;
    const Tensor value = source.read(name);
    for (const float x : value.f32())
      if (!std::isfinite(x)) fail(source.path, fmt::format("{} holds a value that is not finite", name));
    std::copy(value.f32().begin(), value.f32().end(), backbone->weights.view(info).f32().begin());
  }
  return backbone;
}

}  // namespace dino
