// SPDX-License-Identifier: Apache-2.0
// From a backbone's tensors to its configuration and its parameters. What neither the file nor the user tells
// is not guessed, and no tensor of the backbone is left out in silence.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/log.hpp"
#include "model/tensor_source.hpp"

namespace dino {
namespace {

/// Heads of the models that are published under these widths (DINOv2, DeiT, MAE, ViT), all 64 wide.
constexpr std::pair<int64_t, int64_t> kPublishedHeads[] = {
    {192, 3}, {384, 6}, {768, 12}, {1024, 16}, {1536, 24}};
/// Of other sizes, where the file names its architecture (timm, MAE, OpenCLIP); letters and digits only.
struct Architecture {
  const char* name;
  int64_t width, heads;
};
constexpr Architecture kArchitectures[] = {
    {"vitlittle", 320, 5}, {"vitmedium", 512, 8}, {"vitso400m", 1152, 16},     {"vithuge", 1280, 16},
    {"vith14", 1280, 16},  {"vith16", 1280, 16},  {"vitgiantpatch", 1408, 16}, {"vitgigantic", 1664, 16},
};

/// Tensors below a backbone's stem that belong to its training or to a task.
constexpr const char* kOutside[] = {
    "head",        "heads",       "classifier", "fc",           "linear",
    "projector",   "projection",  "predictor",  "pooler",       "decoder",
    "mask_token",  "mask_tokens", "prototypes", "center",       "queue",
    "optimizer",   "optim",       "scheduler",  "lr_scheduler", "scaler",
    "fp16_scaler", "loss",        "criterion",  "pre_logits",   "num_batches_tracked"};
constexpr const char* kOutsideEnds[] = {"_head", "_heads", "_decoder", "_loss", "_classifier", "_projector"};

bool is_outside(const std::string& name, const TensorInfo& info) {
  if (!info.is_floating()) return true;  // counters and index tables
  const std::string first = name.substr(0, name.find('.'));
  if (first.starts_with("decoder_") || first.starts_with("head_")) return true;
  for (const char* known : kOutside)
    if (first == known) return true;
  for (const char* end : kOutsideEnds)
    if (first.ends_with(end)) return true;
  return false;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
  return text + "]";
}

const std::vector<int64_t>& shape_of(const TensorSource& source, const std::string& name, size_t rank) {
  const auto found = source.tensors.find(name);
  if (found == source.tensors.end())
    fail_weights(source,
                 fmt::format("no tensor {}, so it is not a DINOv2 or ViT backbone{}", name,
                             name == "pos_embed" ? " (rotary positions, as of DINOv3, are not read)" : ""));
  if (found->second.shape.size() != rank)
    fail_weights(source, fmt::format("{} does not have {} dimensions", name, rank));
  return found->second.shape;
}

int64_t published_heads(int64_t width) {
  for (const auto& [known, heads] : kPublishedHeads)
    if (known == width) return heads;
  return 0;
}

/// Head counts that divide the width, as the facts beside the tensors tell them. Arguments of a training may
/// mean another network's: where they differ from what is published for the width, both count.
std::set<int64_t> told_heads(const TensorSource& source, int64_t width) {
  std::set<int64_t> counts;
  for (const auto& [name, value] : source.facts) {
    if (name.find("decoder") != std::string::npos || name.find("predictor") != std::string::npos) continue;
    const std::string key = name.substr(name.rfind('.') + 1);
    if (key != "heads" && key != "num_heads" && key != "num_attention_heads" && key != "n_heads") continue;
    int64_t count = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), count);
    if (error != std::errc{} || end != value.data() + value.size() || count < 1 || width % count != 0)
      continue;
    counts.insert(count);
    const bool certain = name == "heads" || name.starts_with("model_args.") ||
                         name.find("attn.") != std::string::npos ||
                         name.find("attention.") != std::string::npos;
    if (!certain && published_heads(width) != 0) counts.insert(published_heads(width));
  }
  if (!counts.empty()) return counts;
  for (const auto& [name, value] : source.facts) {
    const std::string key = name.substr(name.rfind('.') + 1);
    if (key != "arch" && key != "architecture" && key != "model" && key != "model_name" && key != "backbone")
      continue;
    std::string letters;
    for (const char c : value)
      if (std::isalnum(static_cast<unsigned char>(c)) != 0)
        letters += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    for (const Architecture& known : kArchitectures)
      if (known.width == width && letters.find(known.name) != std::string::npos) counts.insert(known.heads);
  }
  return counts;
}

int64_t heads_of(const TensorSource& source, int64_t width, int64_t asked) {
  const std::set<int64_t> told = told_heads(source, width);
  if (told.size() == 1) return settled_heads(source.path, *told.begin(), asked);
  if (asked > 0) {
    if (width % asked != 0)
      throw UsageError(
          fmt::format("bad option: --heads {}: {} has a width of {}, which {} heads do not divide", asked,
                      source.path, width, asked));
    return asked;
  }
  const auto stem = source.facts.find("stem");
  // MoCo v3's ViT-S has 12 heads of 32.
  const bool moco = stem != source.facts.end() && width == 384 &&
                    (stem->second.find("momentum_encoder") != std::string::npos ||
                     stem->second.find("base_encoder") != std::string::npos);
  if (published_heads(width) != 0 && !moco && told.empty()) return published_heads(width);
  if (width == 64 && told.empty()) {
    log::warning(fmt::format("weights: {}: nothing tells the number of heads; one of 64 is taken (--heads)",
                             source.path));
    return 1;
  }
  fail_weights(source,
               fmt::format("{} the number of attention heads for its width of {}; give it with --heads",
                           told.empty() ? "nothing tells" : "it tells several values of", width));
}

std::string name_in_module(const ParameterInfo& parameter) {
  return parameter.name.substr(parameter.module.size() + 1);
}

const TensorInfo* used(const TensorSource& source, const ParameterInfo& parameter) {
  const auto found = source.tensors.find(name_in_module(parameter));
  return found == source.tensors.end() ? nullptr : &found->second;
}

/// Query, key and value without a bias are those with one of zero. In a model where some block has one, it is
/// missing.
bool may_lack(const TensorSource& source, const std::string& name) {
  if (name == "mask_token") return true;  // left out by models that were trained without masks
  if (name == "patch_embed.proj.bias" && source.has("norm_pre.weight")) return true;  // CLIP's is without
  if (!name.ends_with(".attn.qkv.bias")) return false;
  const auto told = source.facts.find("qkv_bias");
  if (told != source.facts.end() && told->second == "true") return false;
  return std::none_of(source.tensors.begin(), source.tensors.end(),
                      [](const auto& entry) { return entry.first.ends_with(".attn.qkv.bias"); });
}

void check_tensors(const ParameterLayout& layout, const TensorSource& source) {
  const std::string module = layout.parameters().front().module + ".";
  std::string outside;
  int64_t passed = 0;
  for (const auto& [name, info] : source.tensors) {
    if (layout.find_if(module + name) != nullptr) continue;
    if (!is_outside(name, info))
      fail_weights(source,
                   fmt::format("{} {} is a part that this model does not have; without it the features would "
                               "be others",
                               shown_name(name), shape_text(info.shape)));
    if (++passed <= 4) outside += (passed == 1 ? "" : ", ") + shown_name(name);
  }
  for (const auto& [name, type] : source.opaque)
    if (layout.find_if(module + name) != nullptr)
      fail_weights(source,
                   fmt::format("{} is a {}, which is no plain tensor; save a full state dict of plain "
                               "tensors",
                               shown_name(name), shown_name(type)));
  if (passed > 0)
    log::info(fmt::format("weights: {}: {} tensor{} that no backbone needs passed over: {}{}", source.path,
                          passed, passed == 1 ? "" : "s", outside, passed > 4 ? ", ..." : ""));
  for (const ParameterInfo& parameter : layout.parameters()) {
    const std::string name = name_in_module(parameter);
    const TensorInfo* info = used(source, parameter);
    if (info == nullptr && may_lack(source, name)) continue;
    if (info == nullptr) fail_weights(source, fmt::format("no tensor {}", name));
    if (!info->is_floating())
      fail_weights(source, fmt::format("{} is of {}: quantised weights are not read; save them as floating "
                                       "point",
                                       name, shown_name(info->dtype)));
    if (info->shape.size() > Shape::kMaxRank || Shape(info->shape) != parameter.shape)
      fail_weights(source, fmt::format("{} has the shape {}, another shape than the model's {}", name,
                                       shape_text(info->shape), parameter.shape.str()));
  }
}

/// Beyond these a size is damage; within them no product of sizes overflows.
void check_sizes(const VitConfig& config, const TensorSource& source) {
  constexpr int64_t wide = 65536;
  const std::pair<int64_t, int64_t> limits[] = {{config.width, wide},         {config.patch, 4096},
                                                {config.hidden, 16 * wide},   {config.registers, wide},
                                                {config.position_grid, wide}, {config.channels, 64}};
  for (const auto& [size, limit] : limits)
    if (size < 0 || size > limit) fail_weights(source, fmt::format("a size of {} is implausible", size));
  if (config.channels != 3)
    fail_weights(source, fmt::format("it takes {} channels; pictures have 3 here", config.channels));
}

}  // namespace

int64_t depth_of(const TensorSource& source) {
  std::set<int64_t> blocks;
  for (const auto& [name, info] : source.tensors) {
    if (!name.starts_with("blocks.")) continue;
    int64_t index = -1;
    const auto [end, error] = std::from_chars(name.data() + 7, name.data() + name.size(), index);
    if (error == std::errc{} && index >= 0 && *end == '.') blocks.insert(index);
  }
  if (blocks.empty()) fail_weights(source, "no tensors blocks.0.*, so it is not a DINOv2 or ViT backbone");
  int64_t expected = 0;
  for (const int64_t block : blocks)
    if (block != expected++)
      fail_weights(source, fmt::format("no tensors of block {} but of block {}", expected - 1, block));
  return expected;
}

int64_t settled_heads(const std::string& path, int64_t told, int64_t asked) {
  if (asked > 0 && asked != told)
    throw UsageError(fmt::format("bad option: --heads {}: {} says that it has {} heads; leave the option out",
                                 asked, path, told));
  return told;
}

VitConfig infer_config(const TensorSource& source, int64_t heads) {
  if (const auto ours = source.facts.find(kConfigFact); ours != source.facts.end()) {
    if (ours->second.size() > 4096)
      fail_weights(source, fmt::format("its \"{}\" is no configuration", kConfigFact));
    VitConfig config = vit_config_from_json(ours->second, source.path);
    config.heads = settled_heads(source.path, config.heads, heads);
    return config;
  }
  VitConfig config;
  const auto& patch = shape_of(source, "patch_embed.proj.weight", 4);
  const auto& positions = shape_of(source, "pos_embed", 3);
  config.width = patch[0];
  config.channels = patch[1];
  config.patch = patch[2];
  if (patch[2] != patch[3] || patch[2] < 1 || patch[0] < 1)
    fail_weights(source,
                 fmt::format("patch_embed.proj.weight {} is of no square patches", shape_text(patch)));
  config.depth = depth_of(source);
  const int64_t cells = positions[1] - 1;
  config.position_grid = std::llround(std::sqrt(static_cast<double>(std::max<int64_t>(cells, 0))));
  if (cells < 1 || config.position_grid * config.position_grid != cells)
    fail_weights(source, fmt::format("pos_embed has {} cells, which is no square table", cells));
  config.heads = heads_of(source, config.width, heads);
  if (source.has("blocks.0.mlp.w3.weight")) {
    config.ffn = FfnKind::swiglu;
    config.hidden = shape_of(source, "blocks.0.mlp.w3.weight", 2)[1];
  } else {
    config.hidden = shape_of(source, "blocks.0.mlp.fc2.weight", 2)[1];
  }
  if (!source.has("blocks.0.ls1.gamma")) config.layerscale = 0;
  if (source.has("register_tokens")) config.registers = shape_of(source, "register_tokens", 3)[1];
  // timm resamples positions as the models with registers do.
  if (config.registers > 0 || source.facts.contains("architecture")) {
    config.position_kernel = PositionKernel::antialias;
    config.interpolate_offset = 0;
  }
  return config;
}

ParameterStore take_parameters(const ParameterLayout& layout, const TensorSource& source) {
  // Shapes are compared before memory for the model is taken.
  check_tensors(layout, source);
  if (layout.count() > source.bytes)
    fail_weights(source, "its tensors claim more values than the file has bytes");
  ParameterStore weights(layout);
  for (const ParameterInfo& info : layout.parameters()) {
    if (used(source, info) == nullptr) continue;
    const std::string name = name_in_module(info);
    const Tensor value = source.read(name);
    for (const float x : value.f32())
      if (!std::isfinite(x)) fail_weights(source, fmt::format("{} holds a value that is not finite", name));
    std::copy(value.f32().begin(), value.f32().end(), weights.view(info).f32().begin());
  }
  return weights;
}

std::unique_ptr<Backbone> backbone_of(const VitConfig& config, const TensorSource& source) {
  check_sizes(config, source);
  if (const int64_t depth = depth_of(source); depth != config.depth)
    fail_weights(source, fmt::format("{} blocks where the configuration says {}", depth, config.depth));
  auto backbone = std::make_unique<Backbone>();
  backbone->config = config;
  append_vit_layout(backbone->layout, config);
  backbone->weights = take_parameters(backbone->layout, source);
  return backbone;
}

}  // namespace dino
