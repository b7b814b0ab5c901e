// SPDX-License-Identifier: Apache-2.0
// Tables, forest plots, curves, protocol cards and published rows.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "report/html.hpp"
#include "report/parts.hpp"
#include "report/plot.hpp"
#include "task.hpp"

namespace dino::eval {

using report::escape;

std::string with_interval(const Estimate& e) {
  return fmt::format("{:.3f} [{:.3f}, {:.3f}]", e.value, e.low, e.high);
}

std::string variant_of(const ResultRow& row) {
  const TaskInfo* info = task_named(row.task);
  const auto card = nlohmann::json::parse(row.card, nullptr, false);
  std::string out;
  if (info == nullptr || !card.is_object()) return out;
  for (const VariantField& variant : info->variants) {
    if (!card.contains(variant.field)) continue;
    const auto& value = card[variant.field];
    const std::string text = value.is_string() ? value.get<std::string>() : json_line(value);
    if (text != variant.usual) out += (out.empty() ? "" : ", ") + std::string(variant.before) + text;
  }
  return out;
}

namespace {

/// Rows of one task, data set, metric and protocol (a curve's field aside), in order of first appearance.
struct Group {
  std::string task, dataset, metric;
  std::vector<LocatedRow> rows;
};

std::vector<Group> groups_of(const std::vector<LocatedRow>& rows, bool curves) {
  std::vector<Group> groups;
  std::map<std::string, size_t> place;
  for (const LocatedRow& located : rows) {
    const ResultRow& r = *located.row;
    const std::string id = r.task + "\n" + r.dataset + "\n" + r.metric + "\n" +
                           (curves ? card_without(r.card, {curve_field(r.task)}) : r.card_hash);
    const auto [it, fresh] = place.emplace(id, groups.size());
    if (fresh) groups.push_back({r.task, r.dataset, r.metric, {}});
    groups[it->second].rows.push_back(located);
  }
  return groups;
}

std::string forests(const ReportInput& input, const ModelColours& colours) {
  std::string out;
  for (Group& g : groups_of(headline_rows(input), false)) {
    const Metric metric = metric_of(g.task, g.metric);
    if (!metric.headline) continue;
    std::stable_sort(g.rows.begin(), g.rows.end(), [&](const LocatedRow& a, const LocatedRow& b) {
      return is_better(metric, a.row->estimate.value, b.row->estimate.value);
    });
    std::vector<report::Interval> intervals;
    for (const LocatedRow& located : g.rows) {
      const ResultRow& r = *located.row;
      intervals.push_back({r.model, r.estimate.value, r.estimate.low, r.estimate.high, is_floor(r.model),
                           colours.of(r.model)});
    }
    const std::string variant = variant_of(*g.rows.front().row);
    out += report::forest_plot(
        fmt::format("{} on {}, {}{}", g.task, g.dataset, g.metric, variant.empty() ? "" : ", " + variant),
        intervals);
  }
  return out.empty() ? "" : "<div class=\"figures\">" + out + "</div>\n";
}

/// Curves of one task.
std::string curves_of(const TaskInfo& info, const std::vector<Group>& groups, const ModelColours& colours) {
  std::string out;
  for (const Group& g : groups) {
    if (g.task != info.name || !metric_of(g.task, g.metric).headline) continue;
    std::map<std::string, std::map<double, double>> by_model;
    for (const LocatedRow& located : g.rows)
      if (const auto at = card_number(located.row->card, info.curve->field))
        by_model[located.row->model][*at] = located.row->estimate.value;
    size_t longest = 0;
    for (const auto& [model, points] : by_model) longest = std::max(longest, points.size());
    if (longest < 3) continue;
    report::LinePlot plot{fmt::format("{} on {} by {}", g.task, g.dataset, info.curve->field),
                          info.curve->field,
                          g.metric,
                          {},
                          false};
    for (const auto& [model, points] : by_model) {
      report::Series series{model, {}, {}, is_floor(model), colours.of(model)};
      for (const auto& [at, value] : points) {
        series.x.push_back(at);
        series.y.push_back(value);
      }
      plot.series.push_back(std::move(series));
    }
    out += report::line_plot(plot);
  }
  return out.empty() ? ""
                     : fmt::format("<h3>{}</h3><div class=\"figures\">{}</div>\n", info.curve->title, out);
}

std::string curves(const ReportInput& input, const ModelColours& colours) {
  const std::vector<Group> groups = groups_of(all_rows(input), true);
  std::string out;
  for (const TaskEntry& entry : tasks())
    if (entry.info.curve) out += curves_of(entry.info, groups, colours);
  return out;
}

/// Nested objects flattened to "train.images = 100".
void flatten(const nlohmann::json& json, const std::string& prefix,
             std::vector<std::vector<std::string>>& rows) {
  for (const auto& [name, value] : json.items()) {
    const std::string full = prefix.empty() ? name : prefix + "." + name;
    if (value.is_object())
      flatten(value, full, rows);
    else
      rows.push_back({escape(full), escape(value.is_string() ? value.get<std::string>() : json_line(value))});
  }
}

}  // namespace

std::string results_html(const ReportInput& input, const ModelColours& colours) {
  std::vector<std::vector<std::string>> cells;
  for (const LocatedRow& located : all_rows(input)) {
    const ResultRow& r = *located.row;
    cells.push_back({escape(r.task), escape(r.dataset), colours.label(r.model), escape(r.metric),
                     escape(variant_of(r)), fmt::format("{:.3f}", r.estimate.value),
                     fmt::format("{:.3f}", r.estimate.low), fmt::format("{:.3f}", r.estimate.high),
                     std::to_string(r.estimate.n), r.oracle ? fmt::format("{:.3f}", *r.oracle) : "",
                     fmt::format("<a href=\"#card-{0}\"><code>{0}</code></a>", r.card_hash.substr(0, 8))});
  }
  std::string out =
      "<p class=\"lead\">Every number with its 95 % interval, the number of test images, and the protocol "
      "behind it. Only rows with the same protocol card are compared.</p>\n";
  out += forests(input, colours) + curves(input, colours);
  out += fmt::format("<details><summary>All {} results</summary>\n", cells.size()) +
         report::table({{"task"},
                        {"data set"},
                        {"model"},
                        {"metric"},
                        {"variant"},
                        {"value", true},
                        {"low", true},
                        {"high", true},
                        {"n", true},
                        {"oracle", true},
                        {"card"}},
                       cells,
                       "Floors in italics. The oracle is the best over the grid on the test set itself: what "
                       "papers report, not an estimate for new images.") +
         "</details>\n";
  return out;
}

std::string cards_html(const ReportInput& input) {
  std::map<std::string, std::pair<std::string, std::set<std::string>>> cards;
  for (const LocatedRow& located : all_rows(input)) {
    auto& [card, used] = cards[located.row->card_hash];
    card = located.row->card;
    used.insert(located.row->task + " " + located.row->dataset +
                (variant_of(*located.row).empty() ? "" : ", " + variant_of(*located.row)));
  }
  std::string out =
      "<p class=\"note\">The hash is the SHA-256 of the card's canonical JSON. A card never names the "
      "model.</p>\n";
  for (const auto& [hash, entry] : cards) {
    std::vector<std::vector<std::string>> rows;
    flatten(nlohmann::json::parse(entry.first, nullptr, false), "", rows);
    out += fmt::format("<details id=\"card-{}\"><summary><code>{}</code> {}</summary>\n{}</details>\n",
                       hash.substr(0, 8), hash.substr(0, 8),
                       escape(fmt::format("{}", fmt::join(entry.second, "; "))),
                       report::table({{"field"}, {"value"}}, rows));
  }
  return out;
}

std::string references_html(const ReportInput& input) {
  std::vector<std::vector<std::string>> cells;
  const auto grey = [](const std::string& text) { return "<span class=\"reference\">" + text + "</span>"; };
  for (const ReferenceRow& r : input.references)
    cells.push_back({grey(escape(r.task)), grey(escape(r.dataset)), grey(escape(r.model)),
                     grey(escape(r.metric)), grey(fmt::format("{:.3f}", r.value)), grey(escape(r.source))});
  return "<p><b>Other data, not comparable.</b> Published figures for orientation: other training data, "
         "other test sets, other protocols than the rows above.</p>\n" +
         report::table({{"task"}, {"data set"}, {"model"}, {"metric"}, {"value", true}, {"source"}}, cells);
}

}  // namespace dino::eval
