// SPDX-License-Identifier: Apache-2.0
#include "report/data.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "storage/files.hpp"
#include "task.hpp"

namespace dino::eval {

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
void take_event(const Json& json, TrainingRun& run) {
  TrainingEvent event;
  event.name = json["event"].get<std::string>();
  event.step = json.contains("step") && json["step"].is_number() ? json["step"].get<double>() : 0;
  for (const auto& [name, value] : json.items()) {
    if (value.is_number()) event.numbers[name] = value.get<double>();
    if (value.is_string()) event.texts[name] = value.get<std::string>();
  }
  run.events.push_back(std::move(event));
}

void take_step(const Json& json, TrainingRun& run) {
  const size_t row = run.step.size();
  run.step.push_back(json["step"].get<double>());
  for (const auto& [name, value] : json.items()) {
    if (name == "step" || !(value.is_number() || value.is_null())) continue;
    auto& column = run.columns[name];
    column.resize(row, kNan);
    column.push_back(value.is_number() ? value.get<double>() : kNan);
  }
  for (auto& [name, column] : run.columns) column.resize(row + 1, kNan);
}

double mean_of(const std::vector<double>& values, size_t begin, size_t end) {
  double sum = 0;
  int64_t count = 0;
  for (size_t i = begin; i < end; ++i)
    if (std::isfinite(values[i])) {
      sum += values[i];
      ++count;
    }
  return count == 0 ? kNan : sum / static_cast<double>(count);
}

}  // namespace

const TrainingEvent* TrainingRun::start() const {
  const auto it =
      std::find_if(events.begin(), events.end(), [](const TrainingEvent& e) { return e.name == "start"; });
  return it == events.end() ? nullptr : &*it;
}
int64_t TrainingRun::count(const std::string& event) const {
  return std::count_if(events.begin(), events.end(), [&](const TrainingEvent& e) { return e.name == event; });
}
bool TrainingRun::has(const std::string& column) const {
  const auto it = columns.find(column);
  return it != columns.end() &&
         std::any_of(it->second.begin(), it->second.end(), [](double v) { return std::isfinite(v); });
}
double TrainingRun::late(const std::string& column, double share) const {
  const auto it = columns.find(column);
  if (it == columns.end() || it->second.empty()) return kNan;
  const size_t n = it->second.size(),
               count = std::max<size_t>(1, static_cast<size_t>(share * static_cast<double>(n)));
  return mean_of(it->second, n - count, n);
}

TrainingRun read_training_run(const std::string& folder) {
  TrainingRun run;
  run.folder = folder;
  const std::string path = folder + "/metrics.jsonl", text = read_text(path);
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    ++number;
    if (end == std::string::npos) break;  // half-written by a killed run
    const Json json = Json::parse(text.substr(begin, end - begin), nullptr, false);
    begin = end + 1;
    if (json.is_object() && json.contains("event") && json["event"].is_string())
      take_event(json, run);
    else if (json.is_object() && json.contains("step") && json["step"].is_number())
      take_step(json, run);
    else
      throw DataError(fmt::format("reading metrics: {}:{}: is neither a step nor an event; remove the line",
                                  path, number));
  }
  if (path_exists(folder + "/config.ini")) run.config_ini = read_text(folder + "/config.ini");
  if (path_exists(folder + "/run.json")) run.run_json = read_text(folder + "/run.json");
  return run;
}

std::vector<ReferenceRow> read_reference_rows(const std::string& path) {
  const std::string text = read_text(path);
  std::vector<std::vector<std::string>> lines(1, std::vector<std::string>(1));
  bool quoted = false;
  for (const char c : text) {
    if (c == '"')
      quoted = !quoted;
    else if (c == ',' && !quoted)
      lines.back().emplace_back();
    else if (c == '\n' && !quoted)
      lines.emplace_back(1);
    else if (c != '\r')
      lines.back().back() += c;
  }
  std::vector<ReferenceRow> rows;
  for (size_t i = 1; i < lines.size(); ++i) {
    const auto& cells = lines[i];
    if (cells.size() == 1 && cells[0].empty()) continue;
    char* end = nullptr;
    const double value = cells.size() == 6 ? std::strtod(cells[4].c_str(), &end) : 0;
    if (cells.size() != 6 || end == cells[4].c_str() || *end != '\0')
      throw DataError(fmt::format(
          "reading reference rows: {}:{}: needs task,dataset,model,metric,value,source; correct the line",
          path, i + 1));
    rows.push_back({cells[0], cells[1], cells[2], cells[3], cells[5], value});
  }
  return rows;
}

std::vector<LocatedRow> all_rows(const ReportInput& input) {
  std::vector<LocatedRow> rows;
  std::map<std::string, size_t> seen;
  for (const ResultFolder& folder : input.results)
    for (const ResultRow& row : folder.rows) {
      const std::string id = row.task + "\n" + row.dataset + "\n" + row.model + "\n" + row.weights + "\n" +
                             row.metric + "\n" + row.card_hash;
      const auto [it, fresh] = seen.emplace(id, rows.size());
      if (fresh)
        rows.push_back({&row, folder.path});
      else
        rows[it->second] = {&row, folder.path};
    }
  return rows;
}

std::optional<double> card_number(const std::string& card, const std::string& name) {
  const Json json = Json::parse(card, nullptr, false);
  if (!json.is_object() || !json.contains(name) || !json[name].is_number()) return std::nullopt;
  return json[name].get<double>();
}

std::string card_without(const std::string& card, const std::vector<std::string>& names) {
  Json json = Json::parse(card, nullptr, false);
  if (!json.is_object()) return card;
  for (const std::string& name : names) json.erase(name);
  return json_line(json);
}

std::string curve_field(const std::string& task) {
  const TaskInfo* info = task_named(task);
  return info != nullptr && info->curve ? info->curve->field : "";
}

std::vector<LocatedRow> headline_rows(const ReportInput& input) {
  std::vector<LocatedRow> rows;
  std::map<std::string, size_t> place;
  const auto rank = [](const ResultRow& row) {
    const TaskInfo* info = task_named(row.task);
    if (info == nullptr || !info->curve) return 0.0;
    const double at = card_number(row.card, info->curve->field).value_or(0);
    return at == info->curve->preferred ? std::numeric_limits<double>::infinity() : at;
  };
  for (const LocatedRow& located : all_rows(input)) {
    const ResultRow& row = *located.row;
    const std::string id = row.task + "\n" + row.dataset + "\n" + row.model + "\n" + row.weights + "\n" +
                           row.metric + "\n" + card_without(row.card, {curve_field(row.task)});
    const auto [it, fresh] = place.emplace(id, rows.size());
    if (fresh)
      rows.push_back(located);
    else if (rank(row) > rank(*rows[it->second].row))
      rows[it->second] = located;
  }
  return rows;
}

}  // namespace dino::eval
