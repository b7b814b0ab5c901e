// SPDX-License-Identifier: Apache-2.0
#pragma once
// The parts of the report, each a function from data to HTML.

#include <optional>
#include <string>
#include <vector>

#include "report/colours.hpp"
#include "report/data.hpp"
#include "training/collapse.hpp"

namespace dino::eval {

enum class Level : uint8_t { green, amber, red };
struct Check {
  Level level = Level::green;
  std::string title, why;             ///< text; together a sentence or two
  std::vector<std::string> detail{};  ///< text: what the verdict was drawn from, a line each
};
[[nodiscard]] std::vector<Check> verdict_checks(const ReportInput& input);
/// The columns and settings that tell a collapse.
[[nodiscard]] HealthHistory health_history(const TrainingRun& run);
/// Did the features collapse? As training/collapse.hpp judges it.
[[nodiscard]] Check collapse_check(const TrainingRun& run);

/// Data sets against models: the headline metric of every protocol.
struct Standings {
  struct Row {
    std::string task, dataset, metric, variant;
    std::vector<LocatedRow> cells;  ///< one per model; no row where it was not measured
    size_t best = 0;                ///< the model of the best value
    /// By model: not told apart from the best by the paired test (the intervals, where predictions are not
    /// kept).
    std::vector<bool> tied;
    [[nodiscard]] bool contested() const;  ///< at least two models
    [[nodiscard]] size_t ties() const;     ///< models that share the first place; 1 = a clear best
  };
  std::vector<std::string> models;
  std::vector<Row> rows;
  std::vector<double> mean_rank;  ///< over rows that have all models; 1 = best; empty without such rows
};
[[nodiscard]] Standings standings(const ReportInput& input, const ModelColours& colours);

/// The first screen: standings, verdicts, cost.
[[nodiscard]] std::string summary_html(const ReportInput& input, const ModelColours& colours,
                                       const std::vector<Check>& checks);
[[nodiscard]] std::string standings_html(const Standings& standings, const ModelColours& colours);
[[nodiscard]] std::string checks_html(const std::vector<Check>& checks);
/// Where something was computed, as its own files say.
struct Machine {
  std::string what, cpu;
  int64_t cores = 0, ranks = 0;  ///< 0 = not known
};
[[nodiscard]] std::vector<Machine> machines(const ReportInput& input);
[[nodiscard]] std::string cost_html(const ReportInput& input);
[[nodiscard]] std::string results_html(const ReportInput& input, const ModelColours& colours);
[[nodiscard]] std::string comparisons_html(const ReportInput& input, const ModelColours& colours);
[[nodiscard]] std::string confusion_html(const ReportInput& input);
[[nodiscard]] std::string cards_html(const ReportInput& input);
[[nodiscard]] std::string references_html(const ReportInput& input);
[[nodiscard]] std::string training_html(const TrainingRun& run, const ModelColours& colours);
[[nodiscard]] std::string curation_html(const CurationData& curation);
[[nodiscard]] std::string pictures_html(const ReportInput& input);
[[nodiscard]] std::string provenance_html(const ReportInput& input);

/// The whole page, and the same content in other forms.
[[nodiscard]] std::string report_html(const ReportInput& input, const std::string& title);
[[nodiscard]] std::string report_markdown(const ReportInput& input, const std::string& title);
[[nodiscard]] std::string report_csv(const ReportInput& input);
[[nodiscard]] std::string report_jsonl(const ReportInput& input);

/// Two models on the same images: McNemar's test of right answers, else the permutation test of the metric;
/// nothing where a row has no predictions, other images, or a metric that they do not hold.
[[nodiscard]] std::optional<PairedTest> paired_test(const LocatedRow& a, const LocatedRow& b);
/// How the first stands against the second, in the metric's own direction.
struct Difference {
  PairedTest test;  ///< paired, else by the intervals (numeric/paired.hpp)
  bool paired = false;
  bool better = false, worse = false;  ///< neither: within noise
  std::string evidence;                ///< "p = 0.0312", "intervals apart", "intervals overlap"
};
/// The paired test decides, as intervals of two models on the same images overlap long before the difference
/// is noise; where predictions are not kept, the intervals do.
[[nodiscard]] Difference difference_of(const LocatedRow& a, const LocatedRow& b);
/// "p = 0.0312" or "p < 0.0001".
[[nodiscard]] std::string p_text(double p);
/// "0.812 [0.795, 0.828]".
[[nodiscard]] std::string with_interval(const Estimate& estimate);
/// "k = 20" and the like, from the card.
[[nodiscard]] std::string variant_of(const ResultRow& row);

}  // namespace dino::eval
