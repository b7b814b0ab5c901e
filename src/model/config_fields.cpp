// SPDX-License-Identifier: Apache-2.0
#include "model/config_fields.hpp"

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "model/tensor_source.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr int64_t kMaxConfig = int64_t{4} << 20;

}  // namespace

Json read_config_json(const std::string& path) {
  if (file_size(path) > kMaxConfig) fail_weights(path, "a configuration of more than 4 MiB");
  const std::string text = read_text(path);
  refuse_lfs_pointer(path, text);
  const auto shallow = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > 64) fail_weights(path, "nested too deeply for a configuration");
    return true;
  };
  Json json = Json::parse(text, shallow, false);
  if (json.is_discarded() || !json.is_object()) fail_weights(path, "not a JSON object");
  return json;
}

bool ConfigFields::has(const char* key) const {
  return json.contains(key) && !json.at(key).is_null();
}

int64_t ConfigFields::size(const char* key, std::optional<int64_t> fallback) const {
  if (!has(key) && fallback) return *fallback;
  if (!has(key)) fail_weights(path, fmt::format("no field \"{}\"", key));
  return whole(json.at(key), key);
}

int64_t ConfigFields::side(const char* key) const {
  if (!has(key) || !json.at(key).is_array()) return size(key);
  const Json& list = json.at(key);
  if (list.empty() || list.size() > 2 || whole(list.front(), key) != whole(list.back(), key))
    fail_weights(path, fmt::format("\"{}\" is {}; only squares are read", key, shown_name(json_line(list))));
  return whole(list.front(), key);
}

double ConfigFields::number(const char* key, double fallback) const {
  if (!has(key)) return fallback;
  if (!json.at(key).is_number()) fail_weights(path, fmt::format("\"{}\" is not a number", key));
  return json.at(key).get<double>();
}

bool ConfigFields::flag(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!json.at(key).is_boolean()) fail_weights(path, fmt::format("\"{}\" is not true or false", key));
  return json.at(key).get<bool>();
}

std::string ConfigFields::text(const char* key, const char* fallback) const {
  return has(key) && json.at(key).is_string() ? json.at(key).get<std::string>() : std::string(fallback);
}

ConfigFields ConfigFields::object(const char* key) const {
  if (!has(key) || !json.at(key).is_object()) fail_weights(path, fmt::format("no object \"{}\"", key));
  return {json.at(key), path};
}

int64_t ConfigFields::whole(const Json& value, const char* key) const {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > 1'000'000) ||
      value.get<int64_t>() < 0 || value.get<int64_t>() > 1'000'000)
    fail_weights(path, fmt::format("\"{}\" is not a size", key));
  return value.get<int64_t>();
}

}  // namespace dino
