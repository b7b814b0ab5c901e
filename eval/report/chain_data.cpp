// SPDX-License-Identifier: Apache-2.0
// Reads what dino-jobs leaves in the folder of a chain's run.
#include <fmt/format.h>

#include <cstdio>
#include <ctime>

#include "base/error.hpp"
#include "base/json.hpp"
#include "report/data.hpp"
#include "storage/files.hpp"

namespace dino::eval {

namespace {

/// Seconds since 1970 of "2026-01-31T23:59:59Z", or -1.
int64_t seconds_of(const std::string& time) {
  std::tm t{};
  char zone = 0;
  if (std::sscanf(time.c_str(), "%d-%d-%dT%d:%d:%d%c", &t.tm_year, &t.tm_mon, &t.tm_mday, &t.tm_hour,
                  &t.tm_min, &t.tm_sec, &zone) != 7 ||
      zone != 'Z')
    return -1;
  t.tm_year -= 1900;
  t.tm_mon -= 1;
  return timegm(&t);
}

/// The time that a marker of a stage holds; empty where there is none, or it is cut off or foreign.
std::string marker_time(const std::string& path) {
  if (!path_exists(path)) return {};
  const Json json = Json::parse(read_text(path), nullptr, false);
  return json.is_object() && json.contains("time") && json["time"].is_string()
             ? json["time"].get<std::string>()
             : std::string();
}

ChainStage read_stage(const std::string& folder, const Json& entry) {
  ChainStage stage;
  stage.name = entry.at("stage").get<std::string>();
  if (stage.name.empty() || stage.name.find('/') != std::string::npos || stage.name.front() == '.')
    throw DataError("reading a chain: " + folder +
                    "/chain.json: a stage has no name that a folder can have; "
                    "start the chain again");
  stage.started = marker_time(folder + "/" + stage.name + "/started.json");
  stage.ended = marker_time(folder + "/" + stage.name + "/done.json");
  const int64_t from = seconds_of(stage.started), to = seconds_of(stage.ended);
  if (from >= 0 && to >= from) stage.seconds = static_cast<double>(to - from);
  return stage;
}

}  // namespace

ChainRun read_chain(const std::string& folder) {
  ChainRun chain;
  chain.folder = folder;
  const std::string path = folder + "/chain.json";
  const Json json = Json::parse(read_text(path), nullptr, false);
  try {
    chain.name = json.at("name").get<std::string>();
    const auto file = json.value("chain_file", std::string());
    if (!file.empty() && path_exists(file)) chain.text = read_text(file);
    for (const Json& entry : json.at("stages")) chain.stages.push_back(read_stage(folder, entry));
  } catch (const Json::exception& e) {
    throw DataError("reading a chain: " + path + ": " + e.what() + "; give the run folder of a chain");
  }
  return chain;
}

}  // namespace dino::eval
