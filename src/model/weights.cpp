// SPDX-License-Identifier: Apache-2.0
#include "model/weights.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "model/checkpoint_reader.hpp"
#include "model/tensor_source.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

std::string millions(const Backbone& backbone) {
  return fmt::format("{:.1f} M parameters", static_cast<double>(backbone.layout.count()) / 1e6);
}

/// Two models have one digest when all their parameters are equal, whatever the format or layout.
std::string digest(const Backbone& backbone) {
  std::map<std::string, const ParameterInfo*> by_name;
  for (const ParameterInfo& info : backbone.layout.parameters()) by_name.emplace(info.name, &info);
  std::string lines;
  for (const auto& [name, info] : by_name)
    lines += name + " " + sha256_hex(std::as_bytes(backbone.weights.view(*info).f32())) + "\n";
  return sha256_hex(std::as_bytes(std::span<const char>(lines)));
}

std::unique_ptr<Backbone> from_checkpoint(const std::string& folder, const std::string& which) {
  CheckpointReader reader(read_checkpoint_manifest(folder));
  const CheckpointManifest& manifest = reader.manifest();
  const std::string path = folder + "/manifest.json";
  if (!manifest.has_store(which))
    throw DataError(fmt::format("bad weights: {}: it holds no {}", folder, which));
  const auto model = nlohmann::ordered_json::parse(manifest.model_json, nullptr, false);
  if (!model.is_object() || !model.contains("vit"))
    throw DataError(fmt::format("bad checkpoint: {}: no configuration of the backbone", path));
  auto backbone = std::make_unique<Backbone>();
  backbone->config = vit_config_from_json(model.at("vit").dump(), path);
  append_vit_layout(backbone->layout, backbone->config);
  backbone->weights = ParameterStore(backbone->layout);
  reader.read_store(which, backbone->weights);
  backbone->description =
      fmt::format("checkpoint of step {}, {}, {}", manifest.step, which, millions(*backbone));
  return backbone;
}

std::unique_ptr<Backbone> from_hugging_face(const std::string& config, const TensorSource& source) {
  auto backbone = backbone_of(read_hugging_face_config(config), with_reference_names(source));
  backbone->description = fmt::format("Hugging Face model, {}", millions(*backbone));
  return backbone;
}

std::unique_ptr<Backbone> from_tensors(TensorSource all, const std::string& which, const char* format) {
  TensorSource source = backbone_tensors(std::move(all), which);
  if (has_hugging_face_names(source)) {
    const auto config = std::filesystem::path(source.path).parent_path() / "config.json";
    if (path_exists(config.string())) return from_hugging_face(config.string(), source);
    source = with_reference_names(std::move(source));
    VitConfig inferred = infer_config(source);
    if (inferred.registers == 0) inferred.position_kernel = PositionKernel::target_size;
    inferred.interpolate_offset = 0;
    auto backbone = backbone_of(inferred, source);
    backbone->description = fmt::format("{} with Hugging Face names, {}", format, millions(*backbone));
    return backbone;
  }
  auto backbone = backbone_of(infer_config(source), source);
  backbone->description = fmt::format("{}, {}", format, millions(*backbone));
  return backbone;
}

/// A checkpoint given by its folder is verified here; a run's newest sound one has been already.
std::unique_ptr<Backbone> from_folder(const std::string& folder, const std::string& which) {
  if (path_exists(folder + "/manifest.json")) {
    if (const std::string fault = find_shard_fault(read_checkpoint_manifest(folder)); !fault.empty())
      throw DataError(fmt::format("bad checkpoint: {}; use another checkpoint", fault));
    return from_checkpoint(folder, which);
  }
  if (is_folder(folder + "/checkpoints")) {
    const std::string newest = newest_sound_checkpoint(folder);
    if (newest.empty())
      throw MissingInputError(fmt::format("no weights: {}: the run has no complete checkpoint yet", folder));
    return from_checkpoint(newest, which);
  }
  const std::string tensors = folder + "/model.safetensors";
  if (!path_exists(tensors))
    throw MissingInputError(fmt::format(
        "no weights: {}: a folder without manifest.json, checkpoints/ or model.safetensors; give a run, a "
        "checkpoint, a Hugging Face folder, a .safetensors or a .pth file",
        folder));
  if (!path_exists(folder + "/config.json"))
    return from_tensors(open_safetensors(tensors), which, "safetensors");
  return from_hugging_face(folder + "/config.json", backbone_tensors(open_safetensors(tensors), which));
}

}  // namespace

std::unique_ptr<Backbone> load_backbone(const std::string& reference, const std::string& which) {
  std::unique_ptr<Backbone> backbone;
  if (!path_exists(reference))
    throw MissingInputError(fmt::format("no weights: {}: no such file or folder", reference));
  if (is_folder(reference)) {
    backbone = from_folder(reference, which);
  } else if (reference.ends_with(".safetensors")) {
    backbone = from_tensors(open_safetensors(reference), which, "safetensors");
  } else if (reference.ends_with(".pth") || reference.ends_with(".pt")) {
    backbone = from_tensors(open_pth(reference), which, "PyTorch file");
  } else {
    throw DataError(fmt::format("bad weights: {}: not a .safetensors or .pth file, nor a folder", reference));
  }
  backbone->source = reference;
  backbone->sha256 = digest(*backbone);
  return backbone;
}

std::unique_ptr<Backbone> random_backbone(const VitConfig& config, uint64_t seed) {
  auto backbone = std::make_unique<Backbone>();
  backbone->config = config;
  append_vit_layout(backbone->layout, config);
  backbone->weights = ParameterStore(backbone->layout);
  backbone->weights.initialize(seed);
  backbone->source = fmt::format("random:{}", seed);
  backbone->description = fmt::format("random weights, seed {}, {}", seed, millions(*backbone));
  backbone->sha256 = digest(*backbone);
  return backbone;
}

}  // namespace dino
