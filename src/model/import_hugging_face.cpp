// SPDX-License-Identifier: Apache-2.0
// The names and configurations of transformers (DINOv2, DINOv2 with registers, ViT), and what timm calls or
// shapes otherwise than the reference.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "model/config_fields.hpp"
#include "model/tensor_source.hpp"

namespace dino {
namespace {

using NamePair = std::pair<const char*, const char*>;

constexpr NamePair kEmbeddingNames[] = {
    {"cls_token", "embeddings.cls_token"},
    {"mask_token", "embeddings.mask_token"},
    {"pos_embed", "embeddings.position_embeddings"},
    {"register_tokens", "embeddings.register_tokens"},
    {"patch_embed.proj.", "embeddings.patch_embeddings.projection."},
    {"norm.", "layernorm."},
};
constexpr NamePair kBlockNames[] = {
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
/// ViTModel's, where they differ from Dinov2Model's.
constexpr NamePair kVitNames[] = {
    {"norm1.", "layernorm_before."},
    {"norm2.", "layernorm_after."},
    {"mlp.fc1.", "intermediate.dense."},
    {"mlp.fc2.", "output.dense."},
};

template <size_t N>
std::optional<std::string> translated(const std::string& name, const NamePair (&table)[N], bool forward) {
  for (const auto& [ours, theirs] : table) {
    const char* from = forward ? ours : theirs;
    if (name.starts_with(from)) return (forward ? theirs : ours) + name.substr(std::strlen(from));
  }
  return std::nullopt;
}

constexpr const char* kLayer = "encoder.layer.";
constexpr const char* kAttention = "attention.attention.";

/// Leaves of timm's configuration as facts; what would change the arithmetic unseen is refused.
void add_timm_facts(const ConfigFields& fields, TensorSource& source) {
  const std::string architecture = fields.text("architecture", "");
  if (architecture.find("quickgelu") != std::string::npos)
    fail_weights(fields.path, fmt::format("{} computes another GELU (QuickGELU)", shown_name(architecture)));
  for (const char* later : {"dinov3", "siglip", "eva"})
    if (architecture.find(later) != std::string::npos)
      fail_weights(fields.path, fmt::format("a model {}, which is not read yet", shown_name(architecture)));
  source.facts.insert_or_assign("architecture", architecture);
  if (!fields.has("model_args") || !fields.json.at("model_args").is_object()) return;
  const Json& arguments = fields.json.at("model_args");
  const ConfigFields inner{arguments, fields.path};
  for (const char* key : {"act_layer", "norm_layer", "global_pool", "pos_embed"}) {
    const std::string value = inner.text(key, "");
    if (!value.empty() && value != "gelu" && value != "layernorm" && value != "token" && value != "learn" &&
        std::string(key) != "global_pool")
      fail_weights(fields.path,
                   fmt::format("\"{}\" is {}, which this model does not have", key, shown_name(value)));
  }
  for (const auto& [key, value] : arguments.items())
    if (value.is_number_integer() || value.is_string())
      source.facts.insert_or_assign("model_args." + key.substr(0, 100),
                                    value.is_string() ? value.get<std::string>() : json_line(value));
}

VitConfig read_vit(const ConfigFields& fields, const std::string& type) {
  const std::string& path = fields.path;
  // transformers' "gelu" and "gelu_python" are the exact one.
  const std::string activation = fields.text("hidden_act", "gelu");
  if (activation != "gelu" && activation != "gelu_python")
    fail_weights(path, fmt::format("hidden_act is {}, not gelu", shown_name(activation)));
  VitConfig config;
  config.width = fields.size("hidden_size");
  config.depth = fields.size("num_hidden_layers");
  config.heads = fields.size("num_attention_heads");
  config.patch = fields.side("patch_size");
  config.channels = fields.size("num_channels", 3);
  const int64_t image = fields.side("image_size");
  if (config.patch == 0 || image % config.patch != 0)
    fail_weights(path, "image_size is not a multiple of patch_size");
  if (config.heads == 0 || config.width == 0 || config.width % config.heads != 0)
    fail_weights(path, "hidden_size is not a multiple of num_attention_heads");
  config.position_grid = image / config.patch;
  config.interpolate_offset = 0;
  config.position_kernel = PositionKernel::target_size;
  if (type == "vit" || type == "vit_msn" || type == "vit_mae") {
    config.hidden = fields.size("intermediate_size");
    config.norm_eps = fields.number("layer_norm_eps", type == "vit_msn" ? 1e-6 : 1e-12);
    config.layerscale = 0;
    return config;
  }
  const auto inner = static_cast<int64_t>(static_cast<double>(config.width) *
                                          std::clamp(fields.number("mlp_ratio", 4), 0.0, 1000.0));
  config.ffn = fields.flag("use_swiglu_ffn", false) ? FfnKind::swiglu : FfnKind::mlp;
  config.hidden = config.ffn == FfnKind::swiglu
                      ? (static_cast<int64_t>(static_cast<double>(inner) * 2 / 3) + 7) / 8 * 8
                      : inner;
  config.norm_eps = fields.number("layer_norm_eps", 1e-6);
  config.layerscale = fields.number("layerscale_value", 1.0);
  if (config.layerscale == 0) config.layerscale = 1.0;  // the file has the parameter whatever it started from
  if (type == "dinov2_with_registers") {
    config.registers = fields.size("num_register_tokens", 4);
    config.position_kernel = PositionKernel::antialias;
  }
  return config;
}

bool is_square(int64_t n) {
  const auto side = std::llround(std::sqrt(static_cast<double>(std::max<int64_t>(n, 0))));
  return n > 0 && side * side == n;
}

/// The source with one tensor made from others.
void replace(TensorSource& source, const std::string& name, std::vector<int64_t> shape,
             std::function<Tensor(const std::function<Tensor(const std::string&)>&)> make) {
  source.tensors.insert_or_assign(name, TensorInfo{std::move(shape), "F32"});
  source.read = [read = std::move(source.read), name, make = std::move(make)](const std::string& asked) {
    return asked == name ? make(read) : read(asked);
  };
}

/// timm keeps positions of the patches alone (no_embed_class), or of all tokens with the registers'. Adding
/// is all that is done with them: a class token without one has a zero, a register takes its own up.
void fit_positions(TensorSource& source, bool timm_registers) {
  const auto found = source.tensors.find("pos_embed");
  if (found == source.tensors.end() || found->second.shape.size() != 3 || found->second.shape[0] != 1) return;
  const int64_t rows = found->second.shape[1], width = found->second.shape[2];
  if (width <= 0 || (is_square(rows - 1) && !timm_registers)) return;
  if (is_square(rows)) {
    replace(source, "pos_embed", {1, rows + 1, width}, [=](const auto& read) {
      const Tensor there = read("pos_embed");
      Tensor all(Shape{1, rows + 1, width});
      std::fill_n(all.template as<float>(), width, 0.0F);
      std::copy(there.f32().begin(), there.f32().end(), all.template as<float>() + width);
      return all;
    });
    return;
  }
  if (!timm_registers) return;
  const auto& shape = source.tensors.at("register_tokens").shape;
  const int64_t registers = shape.size() == 3 && shape[0] == 1 && shape[2] == width ? shape[1] : 0;
  if (registers < 1 || registers >= rows || !is_square(rows - 1 - registers)) return;
  replace(source, "register_tokens", {1, registers, width}, [=](const auto& read) {
    Tensor tokens = read("register_tokens");
    const Tensor there = read("pos_embed");
    for (int64_t i = 0; i < registers * width; ++i) tokens.as<float>()[i] += there.f32()[width + i];
    return tokens;
  });
  // After the registers: they read the whole table.
  replace(source, "pos_embed", {1, rows - registers, width}, [=](const auto& read) {
    const Tensor there = read("pos_embed");
    Tensor rest(Shape{1, rows - registers, width});
    std::copy_n(there.f32().begin(), width, rest.template as<float>());
    std::copy(there.f32().begin() + (1 + registers) * width, there.f32().end(),
              rest.template as<float>() + width);
    return rest;
  });
}

/// fc1 gives gate and value side by side, as w12 does (timm's SwiGLUPacked).
bool is_packed_swiglu(const TensorSource& source) {
  const auto in = source.tensors.find("blocks.0.mlp.fc1.weight");
  const auto out = source.tensors.find("blocks.0.mlp.fc2.weight");
  return in != source.tensors.end() && out != source.tensors.end() && in->second.shape.size() == 2 &&
         out->second.shape.size() == 2 && in->second.shape[0] == 2 * out->second.shape[1] &&
         out->second.shape[1] > 0;
}

std::string replaced(std::string name, const std::string& from, const std::string& to) {
  if (const size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  return name;
}

}  // namespace

Tensor joined(const std::function<Tensor(const std::string&)>& read, const std::array<std::string, 3>& parts,
              const std::string& path) {
  std::array<Tensor, 3> pieces{read(parts[0]), read(parts[1]), read(parts[2])};
  const Shape& shape = pieces[0].shape();
  if (shape.rank() < 1 || pieces[1].shape() != shape || pieces[2].shape() != shape)
    fail_weights(path, fmt::format("{} and its key and value differ in shape", parts[0]));
  Tensor result(shape.rank() == 1 ? Shape{3 * shape[0]}
                                  : Shape{3 * shape[0], shape.numel() / std::max<int64_t>(shape[0], 1)});
  float* out = result.as<float>();
  for (Tensor& piece : pieces) out = std::copy(piece.f32().begin(), piece.f32().end(), out);
  return result;
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

TensorSource from_hugging_face_names(TensorSource source) {
  std::map<std::string, std::string> names;
  std::map<std::string, std::array<std::string, 3>> joins;
  TensorSource result = source;
  result.tensors.clear();
  for (const auto& [name, info] : source.tensors) {
    std::string ours = translated(name, kEmbeddingNames, false).value_or(name);
    const size_t begin = std::strlen(kLayer);
    const size_t dot = name.starts_with(kLayer) ? name.find('.', begin) : std::string::npos;
    if (dot != std::string::npos) {
      const std::string block = "blocks." + name.substr(begin, dot - begin) + ".";
      const std::string inner = name.substr(dot + 1);
      if (const auto known = translated(inner, kBlockNames, false)) ours = block + *known;
      if (const auto known = translated(inner, kVitNames, false)) ours = block + *known;
      const std::string tail = inner.substr(inner.rfind('.') + 1);
      const auto part = [&](const char* which) {
        return name.substr(0, dot + 1) + kAttention + which + "." + tail;
      };
      const std::array<std::string, 3> parts{part("query"), part("key"), part("value")};
      if ((tail == "weight" || tail == "bias") &&
          std::find(parts.begin(), parts.end(), name) != parts.end()) {
        for (const std::string& needed : parts)
          if (!source.has(needed)) fail_weights(source, fmt::format("no {} beside {}", needed, name));
        if (name != parts[0]) continue;
        ours = block + "attn.qkv." + tail;
        TensorInfo joint = info;
        if (!joint.shape.empty() && __builtin_mul_overflow(joint.shape[0], 3, &joint.shape[0]))
          fail_weights(source, fmt::format("{} is implausibly large", shown_name(name)));
        result.tensors.emplace(ours, joint);
        joins.emplace(ours, parts);
        continue;
      }
    }
    if (!names.emplace(ours, name).second)
      fail_weights(source,
                   fmt::format("{} and another tensor are both {}", shown_name(name), shown_name(ours)));
    result.tensors.emplace(ours, info);
  }
  if (source.has("encoder.layer.0.layernorm_before.weight")) result.facts.insert_or_assign("naming", "vit");
  result.read = [read = std::move(source.read), names = std::move(names), joins = std::move(joins),
                 path = source.path](const std::string& name) {
    const auto join = joins.find(name);
    return join == joins.end() ? read(names.at(name)) : joined(read, join->second, path);
  };
  return result;
}

TensorSource from_timm_names(TensorSource source) {
  const bool swiglu = is_packed_swiglu(source);
  const bool registers = source.has("reg_token") && !source.has("register_tokens");
  std::map<std::string, std::string> names;
  TensorSource result = source;
  result.tensors.clear();
  for (const auto& [name, info] : source.tensors) {
    std::string ours = name == "reg_token" && registers ? "register_tokens" : name;
    if (name.starts_with("blocks.")) {
      if (swiglu) ours = replaced(replaced(ours, ".mlp.fc1.", ".mlp.w12."), ".mlp.fc2.", ".mlp.w3.");
      for (const auto& [theirs, known] :
           {NamePair(".gamma_1", ".ls1.gamma"), NamePair(".gamma_2", ".ls2.gamma")})
        if (ours.ends_with(theirs)) ours = replaced(ours, theirs, known);
    }
    if (!names.emplace(ours, name).second)
      fail_weights(source,
                   fmt::format("{} and another tensor are both {}", shown_name(name), shown_name(ours)));
    result.tensors.emplace(ours, info);
  }
  result.read = [read = std::move(source.read), names = std::move(names)](const std::string& name) {
    return read(names.at(name));
  };
  if (registers) result.facts.insert_or_assign("naming", "timm");
  fit_positions(result, registers);
  return result;
}

std::optional<VitConfig> read_hugging_face_config(const std::string& path, TensorSource& source) {
  const Json json = read_config_json(path);
  const ConfigFields fields{json, path};
  const std::string type = fields.text("model_type", "");
  if (type.empty() && fields.has("architecture")) {
    add_timm_facts(fields, source);
    return std::nullopt;
  }
  for (const char* later : {"dinov3", "siglip"})
    if (type.find(later) != std::string::npos)
      fail_weights(path, fmt::format("a model of type {}, which is not read yet", shown_name(type)));
  constexpr const char* known[] = {"dinov2", "dinov2_with_registers", "vit", "vit_msn", "vit_mae"};
  if (std::find(std::begin(known), std::end(known), type) == std::end(known))
    fail_weights(
        path,
        fmt::format("model_type is \"{}\"; only dinov2, dinov2_with_registers, vit, vit_msn and vit_mae "
                    "are read",
                    shown_name(type)));
  source.facts.insert_or_assign("qkv_bias", fields.flag("qkv_bias", true) ? "true" : "false");
  return read_vit(fields, type);
}

}  // namespace dino
