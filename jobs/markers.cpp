// SPDX-License-Identifier: Apache-2.0
#include "markers.hpp"

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "storage/files.hpp"

namespace dino {

std::string marker_path(const std::string& run, const std::string& stage, const std::string& file) {
  return fmt::format("{}/{}/{}", run, stage, file);
}

std::optional<Marker> read_marker(const std::string& run, const std::string& stage, const std::string& file) {
  const std::string path = marker_path(run, stage, file);
  if (!path_exists(path)) return std::nullopt;
  const nlohmann::json json = nlohmann::json::parse(read_text(path), nullptr, false);
  if (!json.is_object() || !json.contains("stage") || json["stage"] != stage) return std::nullopt;
  Marker marker;
  const auto number = [&](const char* key, int64_t& value) {
    const auto it = json.find(key);
    if (it == json.end() || !it->is_number_integer()) return false;
    value = it->get<int64_t>();
    return true;
  };
  if (!number("job", marker.job) || !number("restarts", marker.restarts) ||
      !number("exit_code", marker.exit_code))
    return std::nullopt;
  if (const auto it = json.find("time"); it != json.end() && it->is_string()) marker.time = *it;
  return marker;
}

void write_marker(const std::string& run, const std::string& stage, const std::string& file,
                  const Marker& marker) {
  const nlohmann::ordered_json json = {{"stage", stage},
                                       {"job", marker.job},
                                       {"restarts", marker.restarts},
                                       {"exit_code", marker.exit_code},
                                       {"time", marker.time}};
  write_file_atomically(marker_path(run, stage, file), json_line(json) + "\n");
}

std::string stage_lock(const std::string& run, const std::string& stage) {
  return fmt::format("{}/slurm/.{}.lock", run, stage);
}

bool is_done(const std::string& run, const std::string& stage) {
  const std::optional<Marker> marker = read_marker(run, stage, "done.json");
  return marker.has_value() && marker->exit_code == 0;
}

bool has_broken_done(const std::string& run, const std::string& stage) {
  return path_exists(marker_path(run, stage, "done.json")) && !is_done(run, stage);
}

}  // namespace dino
