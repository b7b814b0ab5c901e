// SPDX-License-Identifier: Apache-2.0
// Where the numbers come from: machines, wall time, commands, settings.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/timing.hpp"
#include "base/version.hpp"
#include "report/html.hpp"
#include "report/parts.hpp"

namespace dino::eval {

using report::escape;

namespace {

std::string pretty(const std::string& json) {
  const auto parsed = nlohmann::ordered_json::parse(json, nullptr, false);
  return parsed.is_discarded() ? json : json_text(parsed, 2);
}

std::string folded(const std::string& title, const std::string& text) {
  return text.empty()
             ? ""
             : "<details><summary>" + escape(title) + "</summary><pre>" + escape(text) + "</pre></details>\n";
}

/// The starts of the run: when, where, with what.
std::string starts_table(const std::string& run_json) {
  const auto json = nlohmann::json::parse(run_json, nullptr, false);
  if (!json.is_object() || !json.contains("starts") || !json["starts"].is_array()) return {};
  std::vector<std::vector<std::string>> rows;
  const auto text = [](const nlohmann::json& start, const char* name) {
    if (!start.contains(name)) return std::string();
    return escape(start[name].is_string() ? start[name].get<std::string>() : json_line(start[name]));
  };
  for (const auto& start : json["starts"]) {
    std::string command;
    if (start.contains("argv") && start["argv"].is_array())
      for (const auto& word : start["argv"])
        if (word.is_string()) command += (command.empty() ? "" : " ") + word.get<std::string>();
    rows.push_back({text(start, "time"), text(start, "host"), text(start, "ranks"), text(start, "from_step"),
                    text(start, "version") + " (" + text(start, "commit") + ")", text(start, "SLURM_JOB_ID"),
                    "<code>" + escape(command) + "</code>"});
  }
  return report::table(
      {{"time"}, {"host"}, {"ranks", true}, {"from step", true}, {"version"}, {"Slurm job"}, {"command"}},
      rows, "Starts of the training run");
}

std::string machine_table(const ReportInput& input) {
  std::vector<std::vector<std::string>> rows;
  for (const Machine& m : machines(input))
    rows.push_back({m.what, escape(m.cpu), m.cores > 0 ? std::to_string(m.cores) : "",
                    m.ranks > 0 ? std::to_string(m.ranks) : ""});
  return rows.empty()
             ? ""
             : report::table({{"what"}, {"CPU"}, {"cores", true}, {"ranks", true}}, rows, "Machines");
}

std::string stage_table(const ChainRun& chain) {
  std::vector<std::vector<std::string>> rows;
  for (const ChainStage& s : chain.stages)
    rows.push_back({escape(s.name), escape(s.started), escape(s.ended),
                    s.seconds > 0 ? escape(human_seconds(s.seconds)) : ""});
  return report::table({{"stage"}, {"last start"}, {"end"}, {"wall time"}}, rows,
                       "Stages of the chain " + chain.name);
}

/// Every command that wrote a row, in order of first appearance.
std::string commands_of(const ReportInput& input) {
  std::vector<std::string> commands;
  for (const LocatedRow& located : all_rows(input)) {
    const std::string& command = located.row->command;
    if (!command.empty() && std::find(commands.begin(), commands.end(), command) == commands.end())
      commands.push_back(command);
  }
  return fmt::format("{}", fmt::join(commands, "\n"));
}

}  // namespace

std::string provenance_html(const ReportInput& input) {
  std::map<std::string, std::pair<std::string, std::string>> models;  // name -> weights, data sets
  for (const LocatedRow& located : all_rows(input)) {
    auto& [weights, sets] = models[located.row->model];
    weights = located.row->weights;
    if (("," + sets + ",").find("," + located.row->dataset + ",") == std::string::npos)
      sets += (sets.empty() ? "" : ",") + located.row->dataset;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, entry] : models)
    rows.push_back({escape(name),
                    entry.first.empty() ? ""
                                        : "<code title=\"" + escape(entry.first) + "\">" +
                                              escape(entry.first.substr(0, 16)) + "</code>",
                    escape(entry.second)});
  std::string out = rows.empty() ? ""
                                 : report::table({{"model"}, {"SHA-256 of the weights"}, {"data sets"}}, rows,
                                                 "Models in this report");
  out += machine_table(input);
  if (input.chain) {
    out += stage_table(*input.chain);
    out += folded("The chain", input.chain->text);
  }
  out += folded("Commands of the evaluation", commands_of(input));
  if (input.training) {
    out += starts_table(input.training->run_json);
    out += folded("Settings of the training run (config.ini)", input.training->config_ini);
    out += folded("run.json", input.training->run_json.empty() ? "" : pretty(input.training->run_json));
  }
  if (input.curation) out += folded("Manifest of the curation", pretty(input.curation->manifest_json));
  return out + fmt::format("<p class=\"note\">Report by dino-eval {} ({}).</p>\n", escape(version()),
                           escape(commit()));
}

}  // namespace dino::eval
