// SPDX-License-Identifier: Apache-2.0
// The first screen: data sets against models, the verdicts, what it cost.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "report/html.hpp"
#include "report/parts.hpp"
#include "task.hpp"

namespace dino::eval {

using report::escape;

bool Standings::Row::contested() const {
  return std::count_if(cells.begin(), cells.end(), [](const LocatedRow& c) { return c.row != nullptr; }) > 1;
}
size_t Standings::Row::ties() const {
  return static_cast<size_t>(std::count(tied.begin(), tied.end(), true));
}

namespace {

void find_best(Standings::Row& row) {
  const Metric metric = metric_of(row.task, row.metric);
  row.tied.assign(row.cells.size(), false);
  const LocatedRow* best = nullptr;
  for (size_t m = 0; m < row.cells.size(); ++m)
    if (row.cells[m].row != nullptr &&
        (best == nullptr || is_better(metric, row.cells[m].row->estimate.value, best->row->estimate.value))) {
      best = &row.cells[m];
      row.best = m;
    }
  for (size_t m = 0; m < row.cells.size(); ++m) {
    const LocatedRow& other = row.cells[m];
    if (other.row != nullptr) row.tied[m] = m == row.best || !difference_of(*best, other).better;
  }
}

/// The mean of a model's places over the rows that all models have; equal values share a place.
std::vector<double> mean_ranks(const Standings& s) {
  std::vector<double> sum(s.models.size(), 0);
  int64_t count = 0;
  for (const Standings::Row& row : s.rows) {
    if (std::any_of(row.cells.begin(), row.cells.end(), [](const LocatedRow& c) { return c.row == nullptr; }))
      continue;
    ++count;
    const Metric metric = metric_of(row.task, row.metric);
    for (size_t m = 0; m < s.models.size(); ++m)
      for (size_t other = 0; other < s.models.size(); ++other) {
        const double a = row.cells[m].row->estimate.value, b = row.cells[other].row->estimate.value;
        sum[m] += other == m ? 1.0 : (is_better(metric, b, a) ? 1.0 : (b == a ? 0.5 : 0.0));
      }
  }
  if (count == 0 || s.models.size() < 2) return {};
  for (double& value : sum) value /= static_cast<double>(count);
  return sum;
}

std::string cell_html(const Standings::Row& row, size_t m, const std::string& model,
                      const std::string& colour) {
  const LocatedRow& cell = row.cells[m];
  const std::string open = fmt::format("<td class=\"num{}\" style=\"--c:{}\" title=\"{}",
                                       is_floor(model) ? " square" : "", escape(colour), escape(model));
  if (cell.row == nullptr) return open + ": not measured\">\xE2\x80\x93</td>";
  const Estimate& e = cell.row->estimate;
  const char *mark = "", *css = "", *says = "";
  if (row.contested() && row.tied[m]) {
    const bool alone = row.ties() == 1;
    mark = alone ? "\xE2\x98\x85" : "\xE2\x89\x88";
    css = alone ? "best" : "tied";
    says = alone ? ", best" : ", shares the first place";
  }
  return open + fmt::format(
                    ": {}{}\"><span class=\"{}\"><span class=\"mark\">{}</span> {:.3f}</span> "
                    "<small>\xC2\xB1{:.3f}</small></td>",
                    with_interval(e), says, css, mark, e.value, std::max(e.high - e.value, e.value - e.low));
}

/// "step_9 is best on 3 of 12 and shares the first place on 2."
std::string places_html(const Standings& s, const ModelColours& colours) {
  std::string out;
  for (size_t m = 0; m < s.models.size(); ++m) {
    int64_t best = 0, shared = 0, all = 0;
    for (const Standings::Row& row : s.rows) {
      if (!row.contested() || row.cells[m].row == nullptr) continue;
      ++all;
      if (row.tied[m]) ++(row.ties() == 1 ? best : shared);
    }
    if (all == 0 || (best + shared == 0 && is_floor(s.models[m]))) continue;
    out += fmt::format("<li>{} is best on {} of {} rows{}.</li>\n", colours.label(s.models[m]), best, all,
                       shared == 0 ? "" : fmt::format(" and shares the first place on {}", shared));
  }
  return out.empty() ? "" : "<ul class=\"places\">\n" + out + "</ul>\n";
}

}  // namespace

Standings standings(const ReportInput& input, const ModelColours& colours) {
  Standings s;
  s.models = colours.models();
  std::map<std::string, size_t> place;
  for (const LocatedRow& located : headline_rows(input)) {
    const ResultRow& r = *located.row;
    if (!metric_of(r.task, r.metric).headline) continue;
    const auto [it, fresh] =
        place.emplace(r.task + "\n" + r.dataset + "\n" + r.metric + "\n" + r.card_hash, s.rows.size());
    if (fresh) s.rows.push_back({r.task, r.dataset, r.metric, variant_of(r), {}, 0, {}});
    Standings::Row& row = s.rows[it->second];
    row.cells.resize(s.models.size());
    row.cells[static_cast<size_t>(std::find(s.models.begin(), s.models.end(), r.model) - s.models.begin())] =
        located;
  }
  for (Standings::Row& row : s.rows) find_best(row);
  // Rows of one data set stand together, in order of first appearance.
  std::map<std::string, size_t> order;
  for (const Standings::Row& row : s.rows) order.emplace(row.dataset, order.size());
  std::stable_sort(s.rows.begin(), s.rows.end(), [&](const Standings::Row& a, const Standings::Row& b) {
    return order.at(a.dataset) < order.at(b.dataset);
  });
  s.mean_rank = mean_ranks(s);
  return s;
}

std::string standings_html(const Standings& s, const ModelColours& colours) {
  if (s.rows.empty()) return {};
  std::string out =
      "<div class=\"table\"><table class=\"summary\"><caption>\xE2\x98\x85 best by the paired test on the "
      "same test "
      "images, \xE2\x89\x88 not told apart from the best; \xC2\xB1 half of the 95 % interval. Floors are "
      "squares.</caption><thead><tr><th scope=\"col\">data set</th>";
  for (const std::string& model : s.models)
    out += "<th scope=\"col\" class=\"num\">" + colours.label(model) + "</th>";
  out += "</tr></thead><tbody>\n";
  for (size_t i = 0; i < s.rows.size(); ++i) {
    const Standings::Row& row = s.rows[i];
    const bool again = i > 0 && s.rows[i - 1].dataset == row.dataset;
    out += fmt::format("<tr><th scope=\"row\"{}><b>{}</b> <small>{} {}{}</small></th>",
                       again ? " class=\"again\"" : "", escape(row.dataset), escape(row.task),
                       escape(row.metric), row.variant.empty() ? "" : ", " + escape(row.variant));
    for (size_t m = 0; m < s.models.size(); ++m)
      out += cell_html(row, m, s.models[m], colours.of(s.models[m]));
    out += "</tr>\n";
  }
  out += "</tbody>";
  if (!s.mean_rank.empty()) {
    out += "<tfoot><tr><th scope=\"row\">mean rank (1 = best)</th>";
    for (size_t m = 0; m < s.models.size(); ++m)
      out += fmt::format("<td class=\"num{}\" style=\"--c:{}\">{:.2f}</td>",
                         is_floor(s.models[m]) ? " square" : "", escape(colours.of(s.models[m])),
                         s.mean_rank[m]);
    out += "</tr></tfoot>";
  }
  return out + "</table></div>\n";
}

std::string checks_html(const std::vector<Check>& checks) {
  constexpr const char* classes[] = {"green", "amber", "red"};
  constexpr const char* chips[] = {"\xE2\x9C\x93 good", "! attention", "\xE2\x9C\x95 problem"};
  std::string out = "<ul class=\"checks\">\n";
  for (const Check& check : checks) {
    std::string detail;
    for (const std::string& line : check.detail) detail += "<li>" + escape(line) + "</li>";
    if (!detail.empty())
      detail = "<details><summary>Which, and by how much</summary><ul>" + detail + "</ul></details>";
    out += fmt::format(
        "<li class=\"{}\"><span class=\"chip\">{}</span><div><b>{}.</b> <span "
        "class=\"why\">{}</span>{}</div></li>\n",
        classes[static_cast<size_t>(check.level)], chips[static_cast<size_t>(check.level)],
        escape(check.title), escape(check.why), detail);
  }
  return out + "</ul>\n";
}

std::string summary_html(const ReportInput& input, const ModelColours& colours,
                         const std::vector<Check>& checks) {
  const Standings s = standings(input, colours);
  const Check nothing{Level::amber, "Nothing to judge",
                      "No result of a trained model, run or curation was given."};
  // Pictures alone: a folder whose images have no labels.
  const std::string unlabelled = !input.results.empty() && s.rows.empty()
                                     ? "<p class=\"lead\">No labels: sub-folders of --data would name "
                                       "classes; then they are told apart by the features.</p>\n"
                                     : "";
  return unlabelled + standings_html(s, colours) + places_html(s, colours) +
         checks_html(checks.empty() ? std::vector<Check>{nothing} : checks) + cost_html(input);
}

}  // namespace dino::eval
