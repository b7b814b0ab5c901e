// SPDX-License-Identifier: Apache-2.0
// What per-sample predictions tell: paired comparisons and confusions.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "report/html.hpp"
#include "report/parts.hpp"
#include "storage/files.hpp"

namespace dino::eval {

using report::escape;

namespace {

bool has_predictions(const LocatedRow& located) {
  return !located.row->predictions.empty() && path_exists(located.folder + "/" + located.row->predictions);
}

Predictions load(const LocatedRow& located) {
  return read_predictions(located.folder + "/" + located.row->predictions);
}

std::vector<std::string> compare(const LocatedRow& a, const LocatedRow& b, const PairedTest& t,
                                 const ModelColours& colours) {
  const char* words = t.within_noise() ? "<span class=\"within\">within noise</span>"
                                       : (t.difference > 0 ? "<span class=\"up\">better</span>"
                                                           : "<span class=\"down\">worse</span>");
  const std::string variant = variant_of(*a.row);
  return {escape(a.row->task + " " + a.row->dataset + (variant.empty() ? "" : ", " + variant)),
          colours.label(a.row->model),
          colours.label(b.row->model),
          fmt::format("{:+.3f}", t.difference),
          fmt::format("[{:+.3f}, {:+.3f}]", t.low, t.high),
          fmt::format("{} / {}", t.only_first, t.only_second),
          escape(p_text(t.p)),
          words};
}

std::string matrix_table(const std::vector<int64_t>& matrix, const std::vector<std::string>& classes) {
  const size_t n = classes.size();
  std::string out =
      "<div class=\"table\"><table class=\"matrix\"><thead><tr><th>true \xE2\x86\x93 predicted "
      "\xE2\x86\x92</th>";
  for (const std::string& name : classes) out += "<th scope=\"col\">" + escape(name) + "</th>";
  out += "</tr></thead><tbody>\n";
  for (size_t t = 0; t < n; ++t) {
    int64_t total = 0;
    for (size_t p = 0; p < n; ++p) total += matrix[t * n + p];
    out += "<tr><th scope=\"row\">" + escape(classes[t]) + "</th>";
    for (size_t p = 0; p < n; ++p) {
      const int64_t count = matrix[t * n + p];
      const double share = total == 0 ? 0 : static_cast<double>(count) / static_cast<double>(total);
      out += fmt::format(
          "<td class=\"{}\" data-label=\"{}\" style=\"--share:{:.3f}\" title=\"{} taken for {}: {} of "
          "{}\">{}</td>",
          t == p ? "diagonal" : "wrong", escape(classes[p]), share, escape(classes[t]), escape(classes[p]),
          count, total, count == 0 ? "" : std::to_string(count));
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string worst_pairs(const std::vector<int64_t>& matrix, const std::vector<std::string>& classes) {
  const size_t n = classes.size();
  struct Pair {
    size_t truth, predicted;
    int64_t count;
  };
  std::vector<Pair> pairs;
  for (size_t t = 0; t < n; ++t)
    for (size_t p = 0; p < n; ++p)
      if (t != p && matrix[t * n + p] > 0) pairs.push_back({t, p, matrix[t * n + p]});
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const Pair& a, const Pair& b) { return a.count > b.count; });
  if (pairs.size() > 10) pairs.resize(10);
  std::vector<std::vector<std::string>> rows;
  for (const Pair& pair : pairs) {
    int64_t total = 0;
    for (size_t p = 0; p < n; ++p) total += matrix[pair.truth * n + p];
    rows.push_back(
        {escape(classes[pair.truth]), escape(classes[pair.predicted]), std::to_string(pair.count),
         fmt::format("{:.1f} %", 100.0 * static_cast<double>(pair.count) / static_cast<double>(total))});
  }
  return report::table({{"true"}, {"predicted"}, {"images", true}, {"of the class", true}}, rows,
                       "Most confused pairs");
}

}  // namespace

std::optional<PairedTest> paired_test(const LocatedRow& a, const LocatedRow& b) {
  if (!has_predictions(a) || !has_predictions(b)) return std::nullopt;
  const Predictions first = load(a), second = load(b);
  if (first.keys != second.keys) return std::nullopt;
  return mcnemar(first.right(), second.right());
}

std::string p_text(double p) {
  return p < 1e-4 ? "p < 0.0001" : fmt::format("p = {:.4f}", p);
}

std::string comparisons_html(const ReportInput& input, const ModelColours& colours) {
  std::map<std::string, std::vector<LocatedRow>> by_card;
  std::vector<std::string> order;
  for (const LocatedRow& located : headline_rows(input)) {
    if (!has_predictions(located)) continue;
    const std::string id = located.row->task + "\n" + located.row->dataset + "\n" + located.row->card_hash;
    if (by_card[id].empty()) order.push_back(id);
    by_card[id].push_back(located);
  }
  std::vector<std::vector<std::string>> cells;
  for (const std::string& id : order) {
    auto& rows = by_card[id];
    std::stable_sort(rows.begin(), rows.end(), [](const LocatedRow& a, const LocatedRow& b) {
      return is_floor(a.row->model) < is_floor(b.row->model);
    });
    for (size_t a = 0; a < rows.size(); ++a)
      for (size_t b = a + 1; b < rows.size(); ++b)
        if (const std::optional<PairedTest> test = paired_test(rows[a], rows[b]))
          cells.push_back(compare(rows[a], rows[b], *test, colours));
  }
  if (cells.empty()) return {};
  return fmt::format("<details><summary>All {} comparisons</summary>\n", cells.size()) +
         report::table({{"protocol"},
                        {"first"},
                        {"second"},
                        {"difference", true},
                        {"95 % interval"},
                        {"only first / only second right"},
                        {"p", true},
                        {"first is"}},
                       cells,
                       "The same test images under two models: McNemar's exact test; within noise means p "
                       "\xE2\x89\xA5 0.05.") +
         "</details>\n";
}

std::string confusion_html(const ReportInput& input) {
  // The best trained model of every data set; a floor where there is no other.
  std::map<std::string, LocatedRow> best;
  for (const LocatedRow& located : headline_rows(input)) {
    if (located.row->task != "knn" || !has_predictions(located)) continue;
    LocatedRow& b = best[located.row->dataset];
    const auto worth = [](const ResultRow& r) { return (is_floor(r.model) ? 0.0 : 2.0) + r.estimate.value; };
    if (b.row == nullptr || worth(*located.row) > worth(*b.row)) b = located;
  }
  std::string out;
  for (const auto& [dataset, located] : best) {
    const Predictions p = load(located);
    const size_t n = p.classes.size();
    std::vector<int64_t> matrix(n * n);
    for (size_t i = 0; i < p.labels.size(); ++i)
      if (p.labels[i] >= 0 && static_cast<size_t>(p.labels[i]) < n && p.predicted[i] >= 0 &&
          static_cast<size_t>(p.predicted[i]) < n)
        ++matrix[static_cast<size_t>(p.labels[i]) * n + static_cast<size_t>(p.predicted[i])];
    out += fmt::format("<details><summary>{}, {}, {}</summary>\n", escape(dataset),
                       escape(located.row->model), escape(variant_of(*located.row)));
    if (n <= 24) out += matrix_table(matrix, p.classes);
    out += worst_pairs(matrix, p.classes) + "</details>\n";
  }
  return out;
}

}  // namespace dino::eval
