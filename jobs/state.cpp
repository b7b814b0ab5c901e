// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/version.hpp"
#include "commands.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr const char* kSchema = "dinohpc-chain-1";

std::string state_path(const std::string& run) {
  return run + "/chain.json";
}

}  // namespace

void write_state(const ChainState& state) {
  nlohmann::ordered_json json = {{"schema", kSchema},
                                 {"version", version()},
                                 {"commit", commit()},
                                 {"name", state.name},
                                 {"run", state.run},
                                 {"chain_file", state.chain_file},
                                 {"submitted", state.submitted},
                                 {"released", state.released}};
  json["stages"] = nlohmann::ordered_json::array();
  for (const ChainState::Entry& entry : state.stages)
    json["stages"].push_back(
        {{"stage", entry.stage}, {"job", entry.job}, {"name", entry.name}, {"script", entry.script}});
  write_file_atomically(state_path(state.run), json_text(json, 2) + "\n");
}

bool has_state(const std::string& run) {
  return path_exists(state_path(run));
}

ChainState read_state(const std::string& run) {
  const std::string path = state_path(run);
  if (!has_state(run))
    throw MissingInputError(fmt::format(
        "no chain here: {}: not there; give the run folder of a chain that was submitted or run", path));
  try {
    const auto json = nlohmann::json::parse(read_text(path));
    if (json.at("schema") != kSchema)
      throw DataError(fmt::format("bad chain state: {}: schema {} is not {}; use the version that wrote it",
                                  path, json_line(json.at("schema")), kSchema));
    ChainState state;
    state.name = json.at("name");
    state.run = run;
    state.chain_file = json.at("chain_file");
    state.submitted = json.at("submitted");
    for (const auto& entry : json.at("stages"))
      state.stages.push_back(
          {entry.at("stage"), entry.at("job"), entry.at("script"), entry.value("name", std::string())});
    state.released = json.value("released", true);
    return state;
  } catch (const nlohmann::json::exception& error) {
    throw DataError(fmt::format("bad chain state: {}: {}; delete it and submit again", path, error.what()));
  }
}

}  // namespace dino
