// SPDX-License-Identifier: Apache-2.0
#pragma once
// One colour per model, the same in every table and plot of a report.

#include <string>
#include <vector>

#include "report/data.hpp"

namespace dino::eval {

class ModelColours {
 public:
  /// Trained models in order of first appearance, then the floors, which are greys.
  explicit ModelColours(const ReportInput& input);
  [[nodiscard]] const std::vector<std::string>& models() const { return models_; }
  /// CSS; of a model that has no row, the colour of bars.
  [[nodiscard]] std::string of(const std::string& model) const;
  /// The colour of a training run: that of the first model with its name, else the first model's.
  [[nodiscard]] std::string of_run(const TrainingRun& run) const;
  /// The model's name behind a mark of its colour: a dot, or a square for a floor. HTML.
  [[nodiscard]] std::string label(const std::string& model) const;

 private:
  std::vector<std::string> models_;
};

}  // namespace dino::eval
