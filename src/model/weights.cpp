// SPDX-License-Identifier: Apache-2.0
#include "model/weights.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "model/checkpoint_reader.hpp"
#include "model/import_clip.hpp"
#include "model/tensor_source.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

std::string millions(const Backbone& backbone) {
  return fmt::format("{:.1f} M parameters", static_cast<double>(backbone.layout.count()) / 1e6);
}

std::unique_ptr<Backbone> from_checkpoint(const std::string& folder, const LoadOptions& options) {
  const std::string which = name_of(options.which);
  CheckpointReader reader(read_checkpoint_manifest(folder));
  const CheckpointManifest& manifest = reader.manifest();
  const std::string path = manifest.text_path();
  if (!manifest.has_store(which))
    throw DataError(fmt::format("bad weights: {}: it holds no {}", folder, which));
  const auto model = nlohmann::ordered_json::parse(manifest.model_json, nullptr, false);
  if (!model.is_object() || !model.contains("vit"))
    throw DataError(fmt::format("bad checkpoint: {}: no configuration of the backbone", path));
  auto backbone = std::make_unique<Backbone>();
  backbone->config = vit_config_from_json(json_line(model.at("vit")), path);
  (void)settled_heads(path, backbone->config.heads, options.heads);
  append_vit_layout(backbone->layout, backbone->config);
  backbone->weights = ParameterStore(backbone->layout);
  reader.read_store(which, backbone->weights);
  backbone->checkpoint = folder;
  backbone->description =
      fmt::format("checkpoint of step {}, {}, {}", manifest.step, which, millions(*backbone));
  return backbone;
}

/// What transformers does where no config.json says otherwise.
void set_hugging_face_defaults(VitConfig& config, const TensorSource& source) {
  if (config.registers == 0) config.position_kernel = PositionKernel::target_size;
  config.interpolate_offset = 0;
  const auto naming = source.facts.find("naming");
  if (naming != source.facts.end() && naming->second == "vit") config.norm_eps = 1e-12;
}

void report_classes(const TensorSource& source) {
  if (source.classes.empty()) return;
  std::string names;
  size_t shown = 0;
  for (const std::string& name : source.classes)
    if (++shown <= 4) names += (shown == 1 ? "" : ", ") + shown_name(name);
  log::info(fmt::format("weights: {}: its pickle also names {}{}; none of it was executed", source.path,
                        names, shown > 4 ? ", ..." : ""));
}

/// `config` is a config.json, "" where there is none.
std::unique_ptr<Backbone> from_tensors(TensorSource all, const LoadOptions& options,
                                       const std::string& config, const char* format) {
  report_classes(all);
  TensorSource source = backbone_tensors(std::move(all), options.which);
  std::optional<VitConfig> told;
  if (!config.empty()) told = read_hugging_face_config(config, source);
  const bool theirs = has_hugging_face_names(source);
  if (theirs) source = from_hugging_face_names(std::move(source));
  source = from_timm_names(std::move(source));
  VitConfig vit;
  if (told) {
    vit = *told;
    vit.heads = settled_heads(config, vit.heads, options.heads);
  } else {
    vit = infer_config(source, options.heads);
    if (theirs) set_hugging_face_defaults(vit, source);
  }
  auto backbone = backbone_of(vit, source);
  backbone->description =
      told ? fmt::format("Hugging Face model, {}", millions(*backbone))
           : fmt::format("{}{}, {}", format, theirs ? " with Hugging Face names" : "", millions(*backbone));
  return backbone;
}

std::string config_beside(const std::string& file) {
  const std::string path = (std::filesystem::path(file).parent_path() / "config.json").string();
  return path_exists(path) ? path : "";
}

/// A file of weights; one of Hugging Face's by its name or its tensors' has its configuration beside it.
std::unique_ptr<Backbone> from_file(const std::string& path, const LoadOptions& options) {
  TensorSource source = open_tensors(path);
  if (has_clip_names(source)) {
    report_classes(source);
    return clip_backbone(source, options.heads);
  }
  const std::string name = std::filesystem::path(path).filename().string();
  const bool hub_file = name.starts_with("model.safetensors") || name.starts_with("pytorch_model.bin") ||
                        std::any_of(source.tensors.begin(), source.tensors.end(), [](const auto& entry) {
                          return entry.first.ends_with("embeddings.patch_embeddings.projection.weight");
                        });
  const char* format = name.find(".safetensors") != std::string::npos ? "safetensors" : "PyTorch file";
  return from_tensors(std::move(source), options, hub_file ? config_beside(path) : "", format);
}

std::unique_ptr<Backbone> from_given_checkpoint(const std::string& path, const LoadOptions& options) {
  if (const std::string fault = find_shard_fault(read_checkpoint_manifest(path)); !fault.empty())
    throw DataError(fmt::format("bad checkpoint: {}; use another checkpoint", fault));
  return from_checkpoint(path, options);
}

std::unique_ptr<Backbone> from_folder(const std::string& folder, const LoadOptions& options) {
  if (is_folder(folder + "/checkpoints")) {
    const std::string newest = newest_sound_checkpoint(folder);
    if (newest.empty())
      throw MissingInputError(fmt::format("no weights: {}: the run has no complete checkpoint yet", folder));
    return from_checkpoint(newest, options);
  }
  for (const char* name : kWeightsFiles)
    if (path_exists(folder + name)) return from_file(folder + name, options);
  if (path_exists(folder + "/.metadata"))
    throw DataError(
        fmt::format("bad weights: {}: a distributed checkpoint of PyTorch; save a full state dict (python -m "
                    "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth)",
                    folder));
  throw MissingInputError(fmt::format(
      "no weights: {}: a folder without manifest.json, checkpoints/, model.safetensors or pytorch_model.bin "
      "(whole or with their .index.json); give a run, a checkpoint, a Hugging Face folder, a .safetensors or "
      "a "
      ".pth file",
      folder));
}

std::map<std::string, Tensor> head_of_checkpoint(const std::string& folder, Network which,
                                                 const std::string& module) {
  CheckpointReader reader(read_checkpoint_manifest(folder));
  std::map<std::string, Tensor> head;
  for (const auto& unit : reader.manifest().units)
    for (const auto& parameter : unit.parameters)
      if (parameter.name.starts_with(module + "."))
        head.emplace(parameter.name.substr(module.size() + 1),
                     reader.read_tensor(name_of(which), parameter.name));
  return head;
}

}  // namespace

std::string weights_digest(const ParameterLayout& layout, const ParameterStore& weights) {
  std::map<std::string, const ParameterInfo*> by_name;
  for (const ParameterInfo& info : layout.parameters()) by_name.emplace(info.name, &info);
  std::string lines;
  for (const auto& [name, info] : by_name)
    lines += name + " " + sha256_hex(std::as_bytes(weights.view(*info).f32())) + "\n";
  return sha256_hex(std::as_bytes(std::span<const char>(lines)));
}

std::unique_ptr<Backbone> load_backbone(const std::string& reference, const LoadOptions& options) {
  if (!path_exists(reference))
    throw MissingInputError(fmt::format("no weights: {}: no such file or folder", reference));
  auto backbone = is_checkpoint(reference) ? from_given_checkpoint(reference, options)
                  : is_folder(reference)   ? from_folder(reference, options)
                                           : from_file(reference, options);
  backbone->source = reference;
  backbone->sha256 = weights_digest(backbone->layout, backbone->weights);
  return backbone;
}

void bring_to_device(Backbone& backbone, const Context& c) {
  if (c.stream.device().is_host()) return;
  ParameterStore there(backbone.layout, c.ops.memory());
  there.copy_from(c.stream, backbone.weights);
  c.stream.synchronize();
  backbone.weights = std::move(there);
}

std::unique_ptr<Backbone> random_backbone(const VitConfig& config, uint64_t seed) {
  auto backbone = std::make_unique<Backbone>();
  backbone->config = config;
  append_vit_layout(backbone->layout, config);
  backbone->weights = ParameterStore(backbone->layout);
  backbone->weights.initialize(seed);
  backbone->source = fmt::format("random:{}", seed);
  backbone->description = fmt::format("random weights, seed {}, {}", seed, millions(*backbone));
  backbone->sha256 = weights_digest(backbone->layout, backbone->weights);
  return backbone;
}

std::map<std::string, Tensor> load_head(const Backbone& backbone, Network which, const std::string& module) {
  if (!backbone.checkpoint.empty()) return head_of_checkpoint(backbone.checkpoint, which, module);
  if (is_folder(backbone.source)) return {};
  const TensorSource source = open_tensors(backbone.source);
  // What stands before the module: "", "teacher.", "student.module.".
  std::map<std::string, std::map<std::string, std::string>> stems;
  for (const auto& [name, info] : source.tensors) {
    const size_t at = name.starts_with(module + ".") ? 0 : name.find("." + module + ".");
    if (at == std::string::npos || !info.is_floating()) continue;
    const size_t begin = at == 0 ? 0 : at + 1;
    stems[name.substr(0, begin)].emplace(name.substr(begin + module.size() + 1), name);
  }
  if (stems.size() > 1)
    std::erase_if(stems,
                  [&](const auto& stem) { return stem.first.find(name_of(which)) == std::string::npos; });
  std::map<std::string, Tensor> head;
  if (stems.size() != 1) return head;
  for (const auto& [name, full] : stems.begin()->second) head.emplace(name, source.read(full));
  return head;
}

}  // namespace dino
