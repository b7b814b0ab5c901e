// SPDX-License-Identifier: Apache-2.0
#include "training/optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/error.hpp"

namespace dino {
namespace {

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

/// Depth of a parameter for the layer-wise decay: 0 = embedding, i + 1 = block i, depth + 1 = all that
/// follows (final norm, heads).
int64_t layer_of(const std::string& name, int64_t depth) {
  if (!name.starts_with("backbone.")) return depth + 1;
  for (const char* part : {".pos_embed", ".patch_embed", ".mask_token", ".cls_token", ".register_tokens"})
    if (contains(name, part)) return 0;
  const size_t block = name.find(".blocks.");
  if (block == std::string::npos) return depth + 1;
  return std::stoll(name.substr(block + 8)) + 1;
}

/// Where a rank updates all that it keeps of the student, the teacher is updated in the same pass; else it
/// waits for the other ranks' parts of the student.
bool teacher_follows_at_once(const ParameterState& state) {
  return state.groups().moments().count == state.groups().weights().count;
}

}  // namespace

ParameterGroup parameter_group(const std::string& full_name, int64_t depth, double layer_decay,
                               double patch_embed_lr_mult) {
  ParameterGroup group;
  group.lr_multiplier = std::pow(layer_decay, static_cast<double>(depth + 1 - layer_of(full_name, depth)));
  if (contains(full_name, "patch_embed")) group.lr_multiplier *= patch_embed_lr_mult;
  if (full_name.ends_with(".bias") || contains(full_name, "norm") || contains(full_name, "gamma"))
    group.wd_multiplier = 0;
  group.is_last_layer = contains(full_name, "last_layer");
  return group;
}

Optimizer::Optimizer(const TrainingConfig& config, const ParameterLayout& layout,
                     std::vector<std::string> modules)
    : config_(config.optimizer), modules_(std::move(modules)) {
  for (const UnitInfo& unit : layout.units()) {
    const auto found = std::find(modules_.begin(), modules_.end(), unit.module);
    DINO_CHECK(found != modules_.end(), "a unit of no module: " + unit.name);
    unit_modules_.push_back(static_cast<size_t>(found - modules_.begin()));
  }
  for (const ParameterInfo& info : layout.parameters()) {
    const ParameterGroup group =
        parameter_group(info.name, config.vit.depth, config_.layer_decay, config_.patch_embed_lr_mult);
    const int64_t end = info.offset + info.shape.numel();
    if (!spans_.empty() && spans_.back().unit == info.unit && spans_.back().group == group)
      spans_.back().end = end;
    else
      spans_.push_back({info.unit, info.offset, end, group});
  }
}

void Optimizer::add_squares(const Context& c, ParameterState& state, TensorView squares) const {
  for (size_t unit = 0; unit < unit_modules_.size(); ++unit)
    c.ops.sum_of_squares(c.stream, state.gradient_values().own(static_cast<int64_t>(unit)),
                         squares.rows(static_cast<int64_t>(unit_modules_[unit]), 1));
}

void Optimizer::update_span(const Context& c, ParameterState& state, const StepSchedule& schedule,
                            int64_t step, const Span& span, TensorView factors, TensorView finite) const {
  const bool backbone = module_of(span.unit) == 0;
  // A frozen last layer has rate 0: neither step nor decay, while its moments go on.
  const double lr =
      (span.group.is_last_layer ? schedule.last_layer_lr : schedule.lr) * span.group.lr_multiplier;
  ops::Backend::AdamW settings{};
  settings.learning_rate = static_cast<float>(lr);
  settings.beta1 = static_cast<float>(config_.beta1);
  settings.beta2 = static_cast<float>(config_.beta2);
  settings.eps = static_cast<float>(config_.adam_eps);
  settings.weight_decay = static_cast<float>(schedule.weight_decay * span.group.wd_multiplier);
  settings.step = backbone ? step - schedule.frozen_updates : step;
  // What lies where this rank's moments do.
  const PartRange parts = state.groups().moments();
  const Range held = state.plan().range(span.unit, parts);
  const int64_t begin = std::max(span.begin, held.begin), end = std::min(span.end, held.end);
  if (begin >= end) return;
  const auto part = [&](ShardedValues& values) {
    return values.parts(span.unit, parts).rows(begin - held.begin, end - begin);
  };
  settings.momentum = static_cast<float>(schedule.momentum);
  c.ops.adamw(c.stream, part(state.student_values()), part(state.gradient_values()), part(state.adam_m()),
              part(state.adam_v()), settings, factors.rows(static_cast<int64_t>(module_of(span.unit)), 1),
              finite, teacher_follows_at_once(state) ? part(state.teacher_values()) : TensorView{});
}

void Optimizer::update(const Context& c, ParameterState& state, const StepSchedule& schedule, int64_t step,
                       TensorView factors, TensorView finite) const {
  const auto frozen = [&](int64_t unit) { return schedule.backbone_frozen && module_of(unit) == 0; };
  const auto units = static_cast<int64_t>(unit_modules_.size());
  size_t next = 0;
  for (int64_t unit = 0; unit < units; ++unit) {
    for (; next < spans_.size() && spans_[next].unit == unit; ++next)
      if (!frozen(unit)) update_span(c, state, schedule, step, spans_[next], factors, finite);
    if (!frozen(unit)) state.updated(unit);
  }
  if (teacher_follows_at_once(state)) return;
  for (int64_t unit = 0; unit < units; ++unit) {
    // The mean of two equal numbers may differ from them in the last bit.
    if (frozen(unit)) continue;
    // The handle waits for the other ranks' parts of a student that is whole here.
    const UnitView arrived = state.groups().weights_whole() ? state.student().acquire(unit) : UnitView{};
    c.ops.ema(c.stream, state.teacher_values().unit(unit), state.student_values().unit(unit),
              static_cast<float>(schedule.momentum), finite);
  }
}

}  // namespace dino
