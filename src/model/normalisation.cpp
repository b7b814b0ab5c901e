// SPDX-License-Identifier: Apache-2.0
#include "model/normalisation.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "base/json.hpp"
#include "model/tensor_source.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

using Json = nlohmann::json;

[[noreturn]] void fail(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("bad weights: {}: {}", path, why));
}

/// `key = a,b,c` of an INI file, if it has that key.
bool three_numbers(const std::string& ini, const std::string& key, std::array<float, 3>& out) {
  for (size_t begin = 0; begin < ini.size();) {
    const size_t end = std::min(ini.find('\n', begin), ini.size());
    const std::string line = ini.substr(begin, end - begin);
    begin = end + 1;
    const size_t equals = line.find('=');
    if (equals == std::string::npos || line.substr(0, line.find_last_not_of(" \t", equals - 1) + 1) != key)
      continue;
    return std::sscanf(line.c_str() + equals + 1, " %f , %f , %f", &out[0], &out[1], &out[2]) == 3;
  }
  return false;
}

Json parse(const std::string& path) {
  if (file_size(path) > int64_t{4} << 20) fail(path, "a configuration of more than 4 MiB");
  const std::string text = read_text(path);
  refuse_lfs_pointer(path, text);
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) fail(path, "not a JSON object");
  return json;
}

/// Lists of three numbers under both keys; false where either is absent.
bool read_pair(const Json& json, const char* mean, const char* deviation, const std::string& path,
               Normalisation& out) {
  if (!json.contains(mean) || !json.contains(deviation)) return false;
  for (const auto& [key, to] : {std::pair(mean, &out.mean), std::pair(deviation, &out.std)}) {
    const Json& list = json.at(key);
    if (!list.is_array() || list.size() != 3)
      fail(path, fmt::format("\"{}\" is not a list of 3 numbers", key));
    for (size_t c = 0; c < 3; ++c) {
      if (!list[c].is_number()) fail(path, fmt::format("\"{}\" is not a list of 3 numbers", key));
      (*to)[c] = list[c].get<float>();
    }
  }
  for (const float deviation_of_channel : out.std)
    if (!(deviation_of_channel > 0)) fail(path, fmt::format("\"{}\" is not positive", deviation));
  return true;
}

/// transformers' image processor: pixels times rescale_factor, less the mean, by the deviation.
bool from_preprocessor(const std::string& path, Normalisation& out) {
  const Json json = parse(path);
  const auto is = [&](const char* key, bool value) {
    return json.contains(key) && json.at(key).is_boolean() && json.at(key).get<bool>() == value;
  };
  if (is("do_rescale", false)) fail(path, "do_rescale is false: pixels of 0 to 255 are not read");
  if (json.contains("rescale_factor") && json.at("rescale_factor").is_number() &&
      std::abs(json.at("rescale_factor").get<double>() * 255 - 1) > 1e-3)
    fail(path, fmt::format("rescale_factor is {}; only 1/255 is read", json.at("rescale_factor").dump()));
  if (is("do_normalize", false)) {
    out.mean = {0, 0, 0};
    out.std = {1, 1, 1};
    return true;
  }
  return read_pair(json, "image_mean", "image_std", path, out);
}

}  // namespace

Normalisation normalisation_of(const std::string& weights) {
  Normalisation read;
  for (const char* place : {"/config.ini", "/../config.ini", "/../../config.ini"}) {
    if (!is_folder(weights) || !path_exists(weights + place)) continue;
    const std::string ini = read_text(weights + place);
    if (three_numbers(ini, "mean", read.mean) && three_numbers(ini, "std", read.std)) return read;
    break;
  }
  read = {};
  std::string folder = weights;
  if (!is_folder(weights)) {
    // The tensors of a hub's folder, given by their own name, are prepared as the folder is.
    const std::filesystem::path path(weights);
    const std::string name = path.filename().string();
    if (!name.starts_with("model.safetensors") && !name.starts_with("pytorch_model.bin")) return read;
    folder = path.has_parent_path() ? path.parent_path().string() : ".";
  }
  const std::string preprocessor = folder + "/preprocessor_config.json", config = folder + "/config.json";
  if (path_exists(preprocessor) && from_preprocessor(preprocessor, read)) return read;
  if (path_exists(config)) {
    const Json json = parse(config);
    if (json.contains("pretrained_cfg") && json.at("pretrained_cfg").is_object() &&
        read_pair(json.at("pretrained_cfg"), "mean", "std", config, read))
      return read;
  }
  return Normalisation{};
}

}  // namespace dino
