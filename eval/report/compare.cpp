// SPDX-License-Identifier: Apache-2.0
// Results against a baseline: what got better, what got worse, and what is noise.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/text.hpp"
#include "commands.hpp"
#include "numeric/paired.hpp"
#include "report/compare.hpp"
#include "report/parts.hpp"
#include "storage/files.hpp"
#include "task.hpp"

namespace dino::eval {

namespace {

struct CompareConfig {
  std::vector<std::string> results, models;
  bool fail_on_regression = false;
};

/// The rows of one side that stand for their protocols.
struct Side {
  std::string name;
  std::unique_ptr<ReportInput> input;  ///< what LocatedRow points into
  std::map<std::string, std::vector<LocatedRow>> rows;
};

/// Of one model, or (`model` empty) of all but the floors.
Side side_of(const std::string& name, const std::vector<std::string>& folders, const std::string& model) {
  Side side{name, std::make_unique<ReportInput>(), {}};
  for (const std::string& folder : folders) {
    const std::string file = folder + "/results.jsonl";
    if (!path_exists(file))
      throw MissingInputError("comparing results: " + folder +
                              ": has no results.jsonl; name a folder that a dino-eval command wrote");
    side.input->results.push_back({folder, read_results(file), {}});
  }
  bool any = false;
  for (const LocatedRow& located : headline_rows(*side.input)) {
    const ResultRow& row = *located.row;
    if (model.empty() ? is_floor(row.model) : row.model != model) continue;
    any = true;
    if (metric_of(row.task, row.metric).headline)
      side.rows[row.task + "\n" + row.dataset + "\n" + row.metric + "\n" + row.card_hash].push_back(located);
  }
  if (!any && !model.empty())
    throw UsageError(
        fmt::format("comparing results: --models {}: has no row in {}; the field model of "
                    "results.jsonl names them",
                    model, fmt::join(folders, ", ")));
  return side;
}

/// Rows of one protocol on both sides: of models of the same name, else of the only model on each side.
std::vector<std::pair<LocatedRow, LocatedRow>> pairs_of(const std::vector<LocatedRow>& before,
                                                        const std::vector<LocatedRow>& after) {
  std::vector<std::pair<LocatedRow, LocatedRow>> pairs;
  for (const LocatedRow& a : before)
    for (const LocatedRow& b : after)
      if (a.row->model == b.row->model) pairs.emplace_back(a, b);
  if (pairs.empty() && before.size() == 1 && after.size() == 1) pairs.emplace_back(before[0], after[0]);
  return pairs;
}

void compare_sides(const Side& before, const Side& after, Comparison& out) {
  for (const auto& [protocol, rows] : before.rows) {
    const auto other = after.rows.find(protocol);
    const auto pairs = other == after.rows.end() ? std::vector<std::pair<LocatedRow, LocatedRow>>{}
                                                 : pairs_of(rows, other->second);
    if (pairs.empty()) ++out.alone;
    for (const auto& [a, b] : pairs) {
      const Difference found = difference_of(b, a);
      const ResultRow& row = *b.row;
      const std::string variant = variant_of(row);
      out.rows.push_back({row.task, row.dataset, row.metric, variant, before.name, after.name, a.row->model,
                          row.model, a.row->estimate.value, row.estimate.value, found.test, found.paired});
    }
  }
}

/// The verdicts, at a level of 0.05 for the whole table.
void judge_table(Comparison& out) {
  std::vector<double> p;
  for (const ComparedRow& row : out.rows) p.push_back(row.test.p);
  const std::vector<double> adjusted = holm(p);
  for (size_t i = 0; i < out.rows.size(); ++i) {
    ComparedRow& row = out.rows[i];
    row.p = adjusted[i];
    const bool up = metric_of(row.task, row.metric).higher_is_better;
    if (row.p < 0.05 && row.test.difference != 0)
      row.verdict = (row.test.difference > 0) == up ? Verdict::better : Verdict::worse;
  }
}

Comparison comparison_of(const CompareConfig& config) {
  Comparison out;
  if (!config.models.empty()) {
    const Side before = side_of(config.models[0], config.results, config.models[0]);
    for (size_t m = 1; m < config.models.size(); ++m) {
      Side after = side_of(config.models[m], config.results, config.models[m]);
      compare_sides(before, after, out);
    }
  } else {
    const Side before = side_of(config.results[0], {config.results[0]}, "");
    for (size_t r = 1; r < config.results.size(); ++r) {
      Side after = side_of(config.results[r], {config.results[r]}, "");
      compare_sides(before, after, out);
    }
  }
  judge_table(out);
  return out;
}

std::string what_of(const ComparedRow& row) {
  return printable_name(fmt::format("{} {} {}{}", row.task, row.dataset, row.metric,
                                    row.variant.empty() ? "" : ", " + row.variant));
}

Schema<CompareConfig> compare_options() {
  using C = CompareConfig;
  Schema<C> schema;
  schema.add("results", &C::results, "Results folders; the first is the baseline.").positional();
  schema.add("models", &C::models,
             "Compare these models within the folders instead, the first being the baseline.");
  schema.add("fail-on-regression", &C::fail_on_regression,
             "Exit with 1 where anything is worse than the baseline.");
  return schema;
}

std::string json_of(const Comparison& comparison) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const ComparedRow& row : comparison.rows)
    rows.push_back({{"task", row.task},
                    {"dataset", row.dataset},
                    {"metric", row.metric},
                    {"variant", row.variant},
                    {"baseline", row.baseline},
                    {"results", row.results},
                    {"baseline_model", row.baseline_model},
                    {"model", row.model},
                    {"before", row.before},
                    {"after", row.after},
                    {"difference", row.test.difference},
                    {"low", row.test.low},
                    {"high", row.test.high},
                    {"p", row.test.p},
                    {"p_adjusted", row.p},
                    {"paired", row.paired},
                    {"verdict", name_of(row.verdict)}});
  return json_line(nlohmann::ordered_json{{"comparisons", rows},
                                          {"without_counterpart", comparison.alone},
                                          {"regressions", comparison.regressions()}});
}

ExitCode start_compare(CompareConfig config, CommandContext& context) {
  const bool by_model = !config.models.empty();
  if (by_model ? config.results.empty() || config.models.size() < 2 : config.results.size() < 2)
    throw UsageError(
        "comparing results: --results, --models: need two folders, or one folder and two models; name the "
        "baseline first");
  if (!context.world.root()) return ExitCode::done;
  const log::Phase phase("compare");
  const Comparison comparison = comparison_of(config);
  if (comparison.rows.empty())
    throw DataError(fmt::format(
        "comparing results: {}: have no protocol in common ({} of the baseline have no counterpart); run the "
        "same tasks with the same options on the same data, or name --models where a folder has several",
        fmt::join(config.results, ", "), comparison.alone));
  if (context.common.dry_run) return ExitCode::done;
  if (context.common.json)
    context.result = json_of(comparison);
  else
    std::fputs(comparison_text(comparison).c_str(), stdout);
  context.printed = !context.common.json;
  return config.fail_on_regression && comparison.regressions() > 0 ? ExitCode::differ : ExitCode::done;
}

}  // namespace

int64_t Comparison::regressions() const {
  return std::count_if(rows.begin(), rows.end(),
                       [](const ComparedRow& row) { return row.verdict == Verdict::worse; });
}

Comparison compare_results(const std::vector<std::string>& results, const std::vector<std::string>& models) {
  return comparison_of({results, models, false});
}

std::string comparison_text(const Comparison& comparison) {
  std::vector<std::vector<std::string>> cells = {
      {"what", "baseline", "", "now", "", "difference", "95 % interval", "p", ""}};
  for (const ComparedRow& row : comparison.rows)
    cells.push_back({what_of(row), printable_name(row.baseline_model), fmt::format("{:.4f}", row.before),
                     printable_name(row.model), fmt::format("{:.4f}", row.after),
                     fmt::format("{:+.4f}", row.test.difference),
                     fmt::format("[{:+.4f}, {:+.4f}]", row.test.low, row.test.high),
                     fmt::format("{:.4f}{}", row.p, row.paired ? "" : " (unpaired)"), name_of(row.verdict)});
  std::vector<size_t> width(cells.front().size());
  for (const auto& line : cells)
    for (size_t c = 0; c < line.size(); ++c) width[c] = std::max(width[c], line[c].size());
  std::string out;
  for (const auto& line : cells) {
    std::string text;
    for (size_t c = 0; c < line.size(); ++c) text += fmt::format("{:<{}}  ", line[c], width[c]);
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  }
  out += fmt::format(
      "p: Holm's correction over the {} comparisons; of the same test images where predictions are kept\n",
      comparison.rows.size());
  if (comparison.alone > 0)
    out += fmt::format("{} protocol(s) of the baseline have no counterpart\n", comparison.alone);
  if (comparison.regressions() > 0) out += "regressions:\n";
  for (const ComparedRow& row : comparison.rows)
    if (row.verdict == Verdict::worse)
      out += fmt::format("  {}: {:.4f} -> {:.4f} ({}, p = {:.4f})\n", what_of(row), row.before, row.after,
                         printable_name(row.model), row.p);
  return out;
}

Command compare_command() {
  Command command;
  command.name = "compare";
  command.summary = "Compare results with a baseline, by paired tests";
  command.usage = "A B... [--models BASE OTHER...] [--fail-on-regression]";
  command.description =
      "Prints a table of every protocol that both results folders hold (the same task, data set, metric and "
      "card): models of the same name are compared, else the only model of each folder, floors left out. The "
      "same test images are compared by McNemar's exact test of right answers or a permutation test of other "
      "metrics, from the predictions that are kept; without them by the intervals. Whatever is worse at a "
      "level of 0.05 after Holm's correction over the table is listed as a regression.";
  command.examples = {{"before after --fail-on-regression", "Exit code 1 where anything got worse."},
                      {"results --models run/step_1000 run/step_2000"}};
  command.make = with_options(compare_options(), start_compare);
  return command;
}

}  // namespace dino::eval
