// SPDX-License-Identifier: Apache-2.0
// What the run cost: wall time, cores, images. Energy is not measured, and the page says so.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/json.hpp"
#include "base/timing.hpp"
#include "report/axis.hpp"
#include "report/html.hpp"
#include "report/parts.hpp"

namespace dino::eval {

namespace {

std::string fact(const std::string& name, const std::string& value, const std::string& note) {
  return "<div><dt>" + report::escape(name) + "</dt><dd>" + report::escape(value) + "<small>" +
         report::escape(note) + "</small></dd></div>";
}

/// Seconds of the steps that were logged; a line speaks for those since the line before.
double training_seconds(const TrainingRun& run) {
  const auto it = run.columns.find("step_seconds");
  if (it == run.columns.end()) return 0;
  double sum = 0, before = 0;
  for (size_t i = 0; i < run.step.size(); ++i) {
    if (std::isfinite(it->second[i]) && run.step[i] > before) sum += it->second[i] * (run.step[i] - before);
    before = run.step[i];
  }
  return sum;
}

/// Rows of one run differ in k and metric, and share its seconds.
double evaluation_seconds(const ReportInput& input) {
  std::map<std::string, double> runs;
  for (const LocatedRow& located : all_rows(input)) {
    const ResultRow& r = *located.row;
    double& seconds = runs[r.task + "\n" + r.dataset + "\n" + r.model + "\n" + card_without(r.card, {"k"})];
    seconds = std::max(seconds, r.seconds);
  }
  double sum = 0;
  for (const auto& [id, seconds] : runs) sum += seconds;
  return sum;
}

std::string wall_time(const ReportInput& input) {
  std::vector<std::pair<std::string, double>> parts;
  if (input.chain) {
    for (const ChainStage& stage : input.chain->stages)
      if (stage.seconds > 0) parts.emplace_back(stage.name, stage.seconds);
  } else {
    if (input.training) parts.emplace_back("training steps", training_seconds(*input.training));
    parts.emplace_back("probes", evaluation_seconds(input));
  }
  double sum = 0;
  std::string note;
  for (const auto& [name, seconds] : parts) {
    if (!(seconds > 0)) continue;
    sum += seconds;
    note += fmt::format("{}{} {}", note.empty() ? "" : ", ", name, human_seconds(seconds));
  }
  return sum > 0 ? fact("Wall time", human_seconds(sum), note) : fact("Wall time", "not recorded", "");
}

}  // namespace

std::vector<Machine> machines(const ReportInput& input) {
  std::vector<Machine> list;
  const auto add = [&](Machine machine) {
    if (machine.cpu.empty()) return;
    const auto same = [&](const Machine& m) {
      return m.cpu == machine.cpu && m.cores == machine.cores && m.what == machine.what;
    };
    const auto it = std::find_if(list.begin(), list.end(), same);
    if (it == list.end())
      list.push_back(std::move(machine));
    else
      it->ranks = std::max(it->ranks, machine.ranks);
  };
  if (input.training) {
    const auto json = nlohmann::json::parse(input.training->run_json, nullptr, false);
    if (json.is_object() && json.contains("starts") && json["starts"].is_array())
      for (const auto& start : json["starts"]) {
        const auto text = [&](const char* name) {
          return start.contains(name) && start[name].is_string() ? start[name].get<std::string>() : "";
        };
        const auto number = [&](const char* name) {
          return start.contains(name) && start[name].is_number_integer() ? start[name].get<int64_t>() : 0;
        };
        if (start.is_object()) add({"training", text("cpu_model"), number("cores"), number("ranks")});
      }
  }
  for (const LocatedRow& located : all_rows(input))
    add({"evaluation", located.row->cpu, located.row->cores, 0});
  return list;
}

std::string cost_html(const ReportInput& input) {
  if (input.results.empty() && !input.training && !input.chain) return {};
  std::string facts = wall_time(input);
  const std::vector<Machine> list = machines(input);
  if (list.empty()) {
    facts += fact("Cores", "not recorded", "");
  } else {
    std::string note = list.front().cpu;
    if (list.front().ranks > 0) note += fmt::format(", {} rank(s)", list.front().ranks);
    if (std::any_of(list.begin(), list.end(), [&](const Machine& m) { return m.cpu != list.front().cpu; }))
      note += "; more under Provenance";
    facts += fact("Cores", report::with_commas(list.front().cores), note);
  }
  if (input.curation)
    facts +=
        fact("Images kept", report::with_commas(input.curation->kept),
             fmt::format("of {} ({:.1f} %)", report::with_commas(input.curation->records),
                         input.curation->records > 0 ? 100.0 * static_cast<double>(input.curation->kept) /
                                                           static_cast<double>(input.curation->records)
                                                     : 0.0));
  if (input.training) {
    const TrainingRun& run = *input.training;
    const TrainingEvent* start = run.start();
    std::string note =
        run.step.empty() ? "" : fmt::format("with repetition, in {:.0f} steps", run.step.back());
    if (start != nullptr && start->texts.contains("preset")) note += " of " + start->texts.at("preset");
    if (const double samples = run.late("samples", 0); std::isfinite(samples))
      facts += fact("Images seen", report::with_commas(std::llround(samples)), note);
  }
  return "<h3>What it cost</h3>\n<dl class=\"facts\">" + facts + fact("Energy", "not measured", "") +
         "</dl>\n";
}

}  // namespace dino::eval
