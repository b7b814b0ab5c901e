// SPDX-License-Identifier: Apache-2.0
#include "model/preparation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <vector>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/text.hpp"
#include "model/checkpoint_reader.hpp"
#include "model/tensor_source.hpp"
#include "model/vit.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

Json parse(const std::string& path) {
  if (file_size(path) > int64_t{4} << 20) fail_weights(path, "a configuration of more than 4 MiB");
  const std::string text = read_text(path);
  refuse_lfs_pointer(path, text);
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) fail_weights(path, "not a JSON object");
  return json;
}

/// Lists of three numbers under both keys; false where either is absent.
bool read_pair(const Json& json, const char* mean, const char* deviation, const std::string& path,
               Normalisation& out) {
  if (!json.contains(mean) || !json.contains(deviation)) return false;
  for (const auto& [key, to] : {std::pair(mean, &out.mean), std::pair(deviation, &out.std)}) {
    const Json& list = json.at(key);
    if (!list.is_array() || list.size() != 3)
      fail_weights(path, fmt::format("\"{}\" is not a list of 3 numbers", key));
    for (size_t c = 0; c < 3; ++c) {
      if (!list[c].is_number()) fail_weights(path, fmt::format("\"{}\" is not a list of 3 numbers", key));
      (*to)[c] = list[c].get<float>();
    }
  }
  for (const float deviation_of_channel : out.std)
    if (!(deviation_of_channel > 0)) fail_weights(path, fmt::format("\"{}\" is not positive", deviation));
  return true;
}

/// A side in pixels under `key`: a number, or an object with the first of `names` that it has.
int64_t side_of(const Json& json, const char* key, std::initializer_list<const char*> names,
                const std::string& path) {
  if (!json.contains(key) || json.at(key).is_null()) return 0;
  const Json& value = json.at(key);
  const Json* side = value.is_number() ? &value : nullptr;
  for (const char* name : names)
    if (side == nullptr && value.is_object() && value.contains(name) && value.at(name).is_number())
      side = &value.at(name);
  if (side == nullptr) return 0;
  const auto pixels = side->get<double>();
  if (!(pixels >= 1 && pixels <= 8192) || pixels != std::floor(pixels))
    fail_weights(path,
                 fmt::format("\"{}\" is {}, which is no side of an image in pixels", key, side->dump()));
  if (value.is_object() && value.contains("height") && value.contains("width") &&
      value.at("height") != value.at("width"))
    fail_weights(path, fmt::format("\"{}\" is {}; only square inputs are read", key, json_line(value)));
  return static_cast<int64_t>(pixels);
}

/// transformers' image processor: the shorter side to `size`, the middle of `crop_size`, pixels times
/// rescale_factor, less the mean, by the deviation. One that stretches to `size` without a crop is read as
/// one that keeps the shape and crops.
bool from_preprocessor(const std::string& path, Preparation& out) {
  const Json json = parse(path);
  const auto is = [&](const char* key, bool value) {
    return json.contains(key) && json.at(key).is_boolean() && json.at(key).get<bool>() == value;
  };
  if (is("do_rescale", false)) fail_weights(path, "do_rescale is false: pixels of 0 to 255 are not read");
  if (json.contains("rescale_factor") && json.at("rescale_factor").is_number() &&
      std::abs(json.at("rescale_factor").get<double>() * 255 - 1) > 1e-3)
    fail_weights(
        path, fmt::format("rescale_factor is {}; only 1/255 is read", json_line(json.at("rescale_factor"))));
  const int64_t size = is("do_resize", false) ? 0 : side_of(json, "size", {"shortest_edge", "height"}, path);
  const int64_t crop = is("do_center_crop", false) ? 0 : side_of(json, "crop_size", {"height"}, path);
  out.size = crop > 0 ? crop : size;
  out.resize = std::max(size, out.size);
  const bool normalised = is("do_normalize", false);
  if (normalised) out.normalisation = {{0, 0, 0}, {1, 1, 1}};
  return read_pair(json, "image_mean", "image_std", path, out.normalisation) || normalised || out.size > 0;
}

/// timm's config.json.
bool from_timm(const std::string& path, Preparation& out) {
  const Json json = parse(path);
  if (!json.contains("pretrained_cfg") || !json.at("pretrained_cfg").is_object()) return false;
  const Json& told = json.at("pretrained_cfg");
  if (told.contains("input_size") && told.at("input_size").is_array() && told.at("input_size").size() == 3) {
    const Json& sides = told.at("input_size");
    out.size = side_of({{"input_size", {{"height", sides[1]}, {"width", sides[2]}}}}, "input_size",
                       {"height"}, path);
    const double share =
        told.contains("crop_pct") && told.at("crop_pct").is_number() ? told.at("crop_pct").get<double>() : 0;
    if (share > 0.01 && share <= 1)
      out.resize = static_cast<int64_t>(std::floor(static_cast<double>(out.size) / share));
  }
  return read_pair(told, "mean", "std", path, out.normalisation) || out.size > 0;
}

/// OpenCLIP's configuration, whose processor resizes to the model's size.
bool from_open_clip(const std::string& path, Preparation& out) {
  const Json json = parse(path);
  if (!json.contains("preprocess_cfg") || !json.at("preprocess_cfg").is_object()) return false;
  if (json.contains("model_cfg") && json.at("model_cfg").is_object() &&
      json.at("model_cfg").contains("vision_cfg") && json.at("model_cfg").at("vision_cfg").is_object())
    out.size = side_of(json.at("model_cfg").at("vision_cfg"), "image_size", {}, path);
  out.resize = out.size;
  return read_pair(json.at("preprocess_cfg"), "mean", "std", path, out.normalisation);
}

/// "a,b,c"
void three_numbers(const IniLine& line, const std::string& path, std::array<float, 3>& out) {
  const std::string text = ini_word(line.value, path);
  if (std::sscanf(text.c_str(), " %f , %f , %f", &out[0], &out[1], &out[2]) != 3)
    fail_weights(path, fmt::format("{} = {} is not three numbers", line.key, text));
}

Background background_of(const std::string& text, const std::string& path) {
  try {
    return Background::from_text(text);
  } catch (const std::invalid_argument& fault) {
    fail_weights(path, fmt::format("background = {}", fault.what()));
  }
}

/// The settings of a run.
bool from_settings(const std::string& text, const std::string& path, Preparation& out) {
  std::vector<IniLine> lines;
  try {
    lines = read_ini(text, path);
  } catch (const UsageError& error) {
    fail_weights(path, error.what());
  }
  bool mean = false, deviation = false;
  for (const IniLine& line : lines) {
    if (line.key == "mean") mean = true, three_numbers(line, path, out.normalisation.mean);
    if (line.key == "std") deviation = true, three_numbers(line, path, out.normalisation.std);
    if (line.key == "background") out.background = background_of(ini_word(line.value, path), path);
    if (line.key == "pad") out.pad = ini_word(line.value, path) == "true";
    if (line.key != "global-size") continue;
    const std::string side = ini_word(line.value, path);
    const auto [end, error] = std::from_chars(side.data(), side.data() + side.size(), out.size);
    if (error != std::errc{} || end != side.data() + side.size() || out.size < 1 || out.size > 8192)
      fail_weights(path, fmt::format("global-size = {} is no side of an image in pixels", side));
  }
  return mean && deviation;
}

}  // namespace

Preparation preparation_of(const std::string& weights) {
  Preparation read;
  for (const char* place : {"/config.ini", "/../config.ini", "/../../config.ini"}) {
    if (!is_folder(weights) || !path_exists(weights + place)) continue;
    read.source = std::filesystem::path(weights + place).lexically_normal().string();
    if (from_settings(read_text(read.source), read.source, read)) return read;
    break;
  }
  read = {};
  // A checkpoint without its run around it.
  if (is_checkpoint(weights)) {
    const CheckpointManifest manifest = read_checkpoint_manifest(weights);
    read.source = manifest.text_path();
    const Json settings = Json::parse(manifest.json).value("config_ini", Json());
    if (settings.is_string() && from_settings(settings.get<std::string>(), read.source, read)) return read;
    return {};
  }
  std::string folder = weights;
  if (!is_folder(weights)) {
    // The tensors of a hub's folder, given by their own name, are prepared as the folder is.
    const std::filesystem::path path(weights);
    const std::string name = path.filename().string();
    if (!name.starts_with("model.safetensors") && !name.starts_with("pytorch_model.bin") &&
        !name.starts_with("open_clip_"))
      return read;
    folder = path.has_parent_path() ? path.parent_path().string() : ".";
  }
  for (const auto& [name, reader] :
       {std::pair("preprocessor_config.json", &from_preprocessor), std::pair("config.json", &from_timm),
        std::pair("open_clip_config.json", &from_open_clip)}) {
    read = {};
    read.source = std::filesystem::path(folder + "/" + name).lexically_normal().string();
    if (path_exists(read.source) && reader(read.source, read)) return read;
  }
  return {};
}

Preparation preparation_of(const std::string& weights, const VitConfig& config) {
  Preparation read = preparation_of(weights);
  if (!read.source.empty() || config.projection == 0) return read;
  read.size = config.position_grid * config.patch;
  read.resize = read.size;
  read.normalisation = {{0.48145466F, 0.4578275F, 0.40821073F}, {0.26862954F, 0.26130258F, 0.27577711F}};
  read.source = "CLIP's own";
  return read;
}

}  // namespace dino
