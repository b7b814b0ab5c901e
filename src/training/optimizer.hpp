// SPDX-License-Identifier: Apache-2.0
#pragma once
// AdamW by parameter groups, and the teacher's moving average, on what this rank holds.

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/parameter_state.hpp"
#include "training/config.hpp"
#include "training/step.hpp"

namespace dino {

/// The multipliers of one parameter (reference get_params_groups_with_decay).
struct ParameterGroup {
  double lr_multiplier = 1, wd_multiplier = 1;
  bool is_last_layer = false;
  bool operator==(const ParameterGroup&) const = default;
};
[[nodiscard]] ParameterGroup parameter_group(const std::string& full_name, int64_t depth, double layer_decay,
                                             double patch_embed_lr_mult);

class Optimizer {
 public:
  /// `modules`: "backbone" first; each has a clip factor of its own.
  Optimizer(const TrainingConfig& config, const ParameterLayout& layout, std::vector<std::string> modules);
  [[nodiscard]] const std::vector<std::string>& modules() const { return modules_; }
  [[nodiscard]] size_t module_of(int64_t unit) const { return unit_modules_[static_cast<size_t>(unit)]; }
  /// squares f64 [modules] += this rank's part of the squared norms of the step's gradients.
  void add_squares(const Context& c, ParameterState& state, TensorView squares) const;
  /// AdamW on the student, then the teacher's average (update `step` of the run, from 1). `factors` f32
  /// [modules] scale the gradients; where `finite` f32 [1] is 0 nothing changes. Collective.
  void update(const Context& c, ParameterState& state, const StepSchedule& schedule, int64_t step,
              TensorView factors, TensorView finite) const;

 private:
  /// Consecutive parameters of a unit that AdamW treats alike (padding between them is zero and stays zero).
  struct Span {
    int64_t unit = 0, begin = 0, end = 0;
    ParameterGroup group;
  };
  void update_span(const Context& c, ParameterState& state, const StepSchedule& schedule, int64_t step,
                   const Span& span, TensorView factors, TensorView finite) const;

  OptimizerConfig config_;
  std::vector<std::string> modules_;
  std::vector<size_t> unit_modules_;
  std::vector<Span> spans_;  ///< by unit
};

}  // namespace dino
