// SPDX-License-Identifier: Apache-2.0
#pragma once
// Results against a baseline, as `compare` prints them.

#include <cstdint>
#include <string>
#include <vector>

#include "base/names.hpp"
#include "numeric/statistics.hpp"

namespace dino::eval {

enum class Verdict : uint8_t { noise, better, worse };
constexpr auto names_of(Verdict) {
  return std::to_array<Named<Verdict>>(
      {{"within noise", Verdict::noise}, {"better", Verdict::better}, {"worse", Verdict::worse}});
}

struct ComparedRow {
  std::string task, dataset, metric, variant;
  std::string baseline, results;      ///< the two sides: folders or models
  std::string baseline_model, model;  ///< of their rows
  double before = 0, after = 0;
  PairedTest test;      ///< after minus before
  bool paired = false;  ///< else from the intervals
  double p = 1;         ///< test.p, corrected over the table
  Verdict verdict = Verdict::noise;
};

struct Comparison {
  std::vector<ComparedRow> rows;
  int64_t alone = 0;  ///< protocols of the baseline that another side lacks
  [[nodiscard]] int64_t regressions() const;
};

/// Folders against the first one, or models of the folders against the first model. MissingInputError for a
/// folder without results, UsageError for a model without rows.
[[nodiscard]] Comparison compare_results(const std::vector<std::string>& results,
                                         const std::vector<std::string>& models);
/// A table, and the list of regressions.
[[nodiscard]] std::string comparison_text(const Comparison& comparison);

}  // namespace dino::eval
