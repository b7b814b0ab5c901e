// SPDX-License-Identifier: Apache-2.0
// What per-sample predictions tell: paired comparisons and confusions.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "numeric/paired.hpp"
#include "report/html.hpp"
#include "report/parts.hpp"
#include "storage/files.hpp"
#include "task.hpp"

namespace dino::eval {

using report::escape;

namespace {

bool has_predictions(const LocatedRow& located) {
  return !located.row->predictions.empty() && path_exists(located.folder + "/" + located.row->predictions);
}

Predictions load(const LocatedRow& located) {
  return read_predictions(located.folder + "/" + located.row->predictions);
}

/// Of one pair in the table of comparisons.
std::vector<std::string> compare(const LocatedRow& a, const LocatedRow& b, const Difference& found,
                                 const ModelColours& colours) {
  const PairedTest& t = found.test;
  const char* words = found.better  ? "<span class=\"up\">better</span>"
                      : found.worse ? "<span class=\"down\">worse</span>"
                                    : "<span class=\"within\">within noise</span>";
  const std::string variant = variant_of(*a.row);
  return {escape(a.row->task + " " + a.row->dataset + (variant.empty() ? "" : ", " + variant)),
          colours.label(a.row->model),
          colours.label(b.row->model),
          fmt::format("{:+.3f}", t.difference),
          fmt::format("[{:+.3f}, {:+.3f}]", t.low, t.high),
          t.counted ? fmt::format("{} / {}", t.only_first, t.only_second) : "\xE2\x80\x93",
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

namespace {

constexpr std::pair<const char*, PixelMetric> kPixelMetrics[] = {{"miou", PixelMetric::mean_iou},
                                                                 {"macc", PixelMetric::mean_accuracy},
                                                                 {"aacc", PixelMetric::pixel_accuracy}};

/// Fewer for many images or classes, so that a pair takes about a second.
int64_t resamples_for(size_t numbers) {
  return std::clamp<int64_t>(int64_t{100'000'000} / static_cast<int64_t>(std::max<size_t>(numbers, 1)), 999,
                             9999);
}

}  // namespace

std::optional<PairedTest> paired_test(const LocatedRow& a, const LocatedRow& b) {
  if (!has_predictions(a) || !has_predictions(b)) return std::nullopt;
  const Predictions first = load(a), second = load(b);
  const std::string& metric = a.row->metric;
  if (first.keys != second.keys || metric != b.row->metric) return std::nullopt;
  if (first.values.count(metric) > 0 && second.values.count(metric) > 0)
    return paired_means(first.values.at(metric), second.values.at(metric), resamples_for(first.keys.size()),
                        0);
  for (const auto& [name, kind] : kPixelMetrics)
    if (metric == name && !first.pixels.empty() && first.pixels.size() == second.pixels.size())
      return paired_pixels(kind, first.pixels, second.pixels, static_cast<int64_t>(first.classes.size()),
                           resamples_for(first.pixels.size()), 0);
  if (metric != "top1" || first.labels.empty() || second.labels.empty()) return std::nullopt;
  return mcnemar(first.right(), second.right());
}

Difference difference_of(const LocatedRow& a, const LocatedRow& b) {
  Difference out;
  const Estimate &first = a.row->estimate, &second = b.row->estimate;
  const bool up = metric_of(a.row->task, a.row->metric).higher_is_better;
  bool above = first.low > second.high, below = first.high < second.low;
  out.evidence = above || below ? "intervals apart" : "intervals overlap";
  if (const std::optional<PairedTest> test = paired_test(a, b)) {
    out.paired = true;
    out.test = *test;
    above = !test->within_noise() && test->difference > 0;
    below = !test->within_noise() && test->difference < 0;
    out.evidence = p_text(test->p);
  } else {
    out.test = unpaired(first, second);
  }
  out.better = up ? above : below;
  out.worse = up ? below : above;
  return out;
}

std::string p_text(double p) {
  return p < 1e-4 ? "p < 0.0001" : fmt::format("p = {:.4f}", p);
}

std::string comparisons_html(const ReportInput& input, const ModelColours& colours) {
  std::map<std::string, std::vector<LocatedRow>> by_card;
  std::vector<std::string> order;
  for (const LocatedRow& located : headline_rows(input)) {
    if (!has_predictions(located)) continue;
    const std::string id = located.row->task + "\n" + located.row->dataset + "\n" + located.row->metric +
                           "\n" + located.row->card_hash;
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
        if (const Difference found = difference_of(rows[a], rows[b]); found.paired)
          cells.push_back(compare(rows[a], rows[b], found, colours));
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
                       "The same test images under two models: McNemar's exact test of right answers, a "
                       "permutation test of other metrics; within noise means p \xE2\x89\xA5 0.05.") +
         "</details>\n";
}

std::string confusion_html(const ReportInput& input) {
  // The best trained model of every task and data set; a floor where there is no other.
  std::map<std::pair<std::string, std::string>, LocatedRow> best;
  for (const LocatedRow& located : headline_rows(input)) {
    const TaskInfo* info = task_named(located.row->task);
    if (info == nullptr || !info->confusions || !has_predictions(located)) continue;
    LocatedRow& b = best[{located.row->dataset, located.row->task}];
    const auto worth = [](const ResultRow& r) { return (is_floor(r.model) ? 0.0 : 2.0) + r.estimate.value; };
    if (b.row == nullptr || worth(*located.row) > worth(*b.row)) b = located;
  }
  std::string out;
  for (const auto& [of, located] : best) {
    const Predictions p = load(located);
    const size_t n = p.classes.size();
    std::vector<int64_t> matrix(n * n);
    for (size_t i = 0; i < p.labels.size(); ++i)
      if (p.labels[i] >= 0 && static_cast<size_t>(p.labels[i]) < n && p.predicted[i] >= 0 &&
          static_cast<size_t>(p.predicted[i]) < n)
        ++matrix[static_cast<size_t>(p.labels[i]) * n + static_cast<size_t>(p.predicted[i])];
    out += fmt::format("<details><summary>{}, {}, {}</summary>\n", escape(of.first),
                       escape(located.row->model), escape(variant_of(*located.row)));
    if (n <= 24) out += matrix_table(matrix, p.classes);
    out += worst_pairs(matrix, p.classes) + "</details>\n";
  }
  return out;
}

}  // namespace dino::eval
