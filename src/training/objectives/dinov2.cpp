// SPDX-License-Identifier: Apache-2.0
#include "training/objectives/dinov2.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.hpp"
#include "training/health.hpp"

namespace dino {
namespace {

constexpr float kKoleoNormEps = 1e-8F;

/// Where a step's scalars lie.
namespace scalar {
enum : int64_t {
  dino_local,  // sums over ranks up to here ...
  dino_global,
  ibot,
  koleo,
  entropy,
  entropy_of_mean,  // ... and the same on all ranks from here on
  usage,
  column_std,
  count,
};
}  // namespace scalar

}  // namespace

std::unique_ptr<Objective> make_objective(const TrainingConfig& config, const Context& c) {
  return std::make_unique<Dinov2>(config, c);
}

Dinov2::Dinov2(const TrainingConfig& config, const Context& c)
    : config_(config.objective),
      width_(config.vit.width),
      local_crops_(config.local_crops),
      kept_targets_(config.split.targets_gib * static_cast<double>(int64_t{1} << 30)),
      memory_(c.ops.memory()),
      dino_(config.objective.dino_head, "dino_head") {
  DINO_CHECK(config_.dino_head.input == width_, "the DINO head's input is not the backbone's width");
  if (config_.separate_ibot_head) {
    DINO_CHECK(config_.ibot_head.input == width_, "the iBOT head's input is not the backbone's width");
    ibot_.emplace(config_.ibot_head, "ibot_head");
  }
  start();
}

void declare_heads(ParameterLayout& layout, const Dinov2Config& config) {
  append_head_layout(layout, config.dino_head, "dino_head");
  if (config.separate_ibot_head) append_head_layout(layout, config.ibot_head, "ibot_head");
}

void Dinov2::declare(ParameterLayout& layout) const {
  declare_heads(layout, config_);
}

Objective::Scalars Dinov2::scalars() const {
  return {scalar::entropy_of_mean, scalar::count};
}

void Dinov2::start() {
  if (config_.centering != Centering::softmax) return;
  dino_centre_ = SoftmaxCentre(dino_.config().prototypes, config_.centre_momentum, memory_);
  ibot_centre_ = SoftmaxCentre(patch_head().config().prototypes, config_.centre_momentum, memory_);
}

TensorView Dinov2::batch(const StepContext& step, const BatchTokens& student, const BatchTokens& teacher,
                         const BatchTokens& gradient) {
  const Targets taught = targets(step, teacher);
  target_health(step.c, taught.cls, 2 * step.split.total(), step.scalar(scalar::entropy),
                step.scalars.rows(scalar::entropy_of_mean, 2));
  cross_entropies(step, student, gradient, taught);
  return features(step, student, gradient);
}

TeacherTargets Dinov2::teacher_logits(const StepContext& step, const Head& head, TensorView tokens,
                                      int64_t taught, bool keep) const {
  const Context& c = step.c;
  const int64_t rows = tokens.dim(0), k = head.config().prototypes;
  // A rank without a masked patch takes part in gathering the unit.
  const UnitView w = step.teacher.acquire(head.unit(step.teacher.layout()));
  if (keep) {
    const TensorView logits = c.arena.make({rows, k});
    if (rows == 0) return TeacherTargets(logits);
    const Arena::Scope scope(c.arena);
    const TensorView unit = head.forward(c, w, tokens);
    (void)prototype_logits(c, unit, head.prototypes(c, w), logits);
    return TeacherTargets(logits.rows(0, taught));
  }
  const TensorView unit = c.arena.make({rows, head.config().bottleneck});
  const TeacherTargets made(c, unit.rows(0, taught), head.prototypes(c, w));
  const Arena::Scope scope(c.arena);
  copy(c.stream, unit, head.forward(c, w, tokens));
  return made;
}

Dinov2::Targets Dinov2::targets(const StepContext& step, const BatchTokens& teacher) {
  const Context& c = step.c;
  const int64_t b = teacher.images, k = dino_.config().prototypes;
  TeacherTargets cls = teacher_logits(step, dino_, teacher.global_class(), 2 * b, true);
  const TensorView tokens = teacher.patches();
  const double bytes = 4.0 * static_cast<double>(tokens.dim(0) * patch_head().config().prototypes);
  TeacherTargets patches =
      teacher_logits(step, patch_head(), tokens, step.masked.masked, bytes <= kept_targets_);
  const auto observe = [&](const char* of_views, const char* of_patches) {
    c.observe(dino_.module(), of_views, cls.whole(), ObservedRows::views);
    c.observe(patch_head().module(), of_patches, patches.whole(), ObservedRows::masked);
  };
  observe("teacher logits", "teacher logits of patches");
  if (config_.centering == Centering::sinkhorn) {
    const std::array<TeacherTargets*, 2> problems{&cls, &patches};
    sinkhorn(c, problems, step.teacher_temperature, config_.sinkhorn_iterations);
  } else {
    dino_centre_.targets(c, cls, 2 * step.split.total(), step.teacher_temperature);
    ibot_centre_.targets(c, patches, step.masked_total, step.teacher_temperature);
  }
  observe("targets", "targets of patches");
  Targets targets{cls.whole(), {}, patches};
  if (local_crops_ > 0) {
    // CE(s, t1) + CE(s, t2) = CE(s, t1 + t2): one row per image serves both teacher views.
    targets.local = c.arena.make({b, k});
    copy(c.stream, targets.local, targets.cls.rows(0, b));
    c.ops.axpy(c.stream, 1.0F, targets.cls.rows(b, b), targets.local);
  }
  return targets;
}

void Dinov2::head_losses(const StepContext& step, const Head& head, const HeadRows& rows,
                         TensorView loss) const {
  const Context& c = step.c;
  const int64_t unit_index = head.unit(step.student.layout());
  const UnitView w = step.student.acquire(unit_index);
  const UnitGradient d = step.gradients.gradient(unit_index);
  if (rows.tokens.dim(0) > 0) {
    const Arena::Scope scope(c.arena);
    const HeadConfig& shape = head.config();
    HeadSaved saved;
    const ObservedRows kind = ibot_ && &head == &*ibot_ ? ObservedRows::masked : ObservedRows::batch;
    const TensorView unit = head.forward(c, w, rows.tokens, &saved);
    c.observe(head.module(), "unit vectors", unit, kind);
    const TensorView prototypes = head.prototypes(c, w);
    const TensorView d_prototypes = c.arena.zeros(c.stream, {shape.prototypes, shape.bottleneck});
    const TensorView d_unit = c.arena.make({rows.tokens.dim(0), shape.bottleneck});
    prototype_cross_entropy(c, unit, prototypes, rows.segments, config_.student_temperature,
                            c.arena.upload(c.stream, std::span<const float>(rows.weight)), loss, d_unit,
                            d_prototypes);
    c.observe(head.module(), "losses", loss, kind);
    c.observe(head.module(), "gradient of unit vectors", d_unit, kind);
    head.prototypes_backward(c, w, d_prototypes, d);
    copy(c.stream, rows.gradient, head.backward(c, w, saved, d_unit, d));
    c.observe(head.module(), "gradient of tokens", rows.gradient, kind);
    c.observe(head.module(), "gradient of parameters", d.values(), ObservedRows::parameters);
  }
  step.gradients.finish_gradient(unit_index);
}

void Dinov2::cross_entropies(const StepContext& step, const BatchTokens& student, const BatchTokens& gradient,
                             const Targets& targets) const {
  const Context& c = step.c;
  const int64_t b = student.images;
  const int64_t local_rows = student.local_rows();
  const int64_t dino_rows = local_rows + 2 * b;
  const int64_t patches = step.masked.count();
  const double pair = 1.0 / (step.total_images() * DinoTerms(local_crops_).total());
  const double dino_weight = step.loss_scale * config_.dino_weight;
  const double ibot_weight = step.loss_scale * config_.ibot_weight;

  // Rows [local crops | view 1 | view 2 | masked patches]; each global view is taught by the other one.
  const int64_t first_rows = ibot_ ? dino_rows : dino_rows + patches;
  HeadRows dino{student.all.rows(0, first_rows), gradient.all.rows(0, first_rows), {}, {}};
  HeadRows ibot{student.patches(), gradient.patches(), {}, {}};
  for (int64_t crop = 0; crop < local_crops_; ++crop)
    dino.segments.push_back(TargetRows::of(crop * b, targets.local));
  dino.segments.push_back(TargetRows::of(local_rows, targets.cls.rows(b, b)));
  dino.segments.push_back(TargetRows::of(local_rows + b, targets.cls.rows(0, b)));
  dino.weight.assign(static_cast<size_t>(dino_rows), static_cast<float>(dino_weight * pair));
  HeadRows& of_patches = ibot_ ? ibot : dino;
  const int64_t first_patch = ibot_ ? 0 : dino_rows, masked = step.masked.masked;
  of_patches.segments.push_back(
      {first_patch, masked, [&](int64_t begin, int64_t n) { return targets.patches->block(c, begin, n); }});
  of_patches.segments.push_back({first_patch + masked, patches - masked, {}});
  const double per_view = 1.0 / (2 * step.total_images());
  for (const float weight : step.masked.weight)
    of_patches.weight.push_back(static_cast<float>(ibot_weight * per_view * static_cast<double>(weight)));

  const Arena::Scope scope(c.arena);
  const TensorView dino_loss = c.arena.make({first_rows});
  const TensorView ibot_loss = ibot_ ? c.arena.make({patches}) : dino_loss.rows(dino_rows, patches);
  head_losses(step, dino_, dino, dino_loss);
  if (ibot_) head_losses(step, *ibot_, ibot, ibot_loss);

  c.ops.weighted_sum(c.stream, dino_loss.rows(0, local_rows), {}, pair, step.scalar(scalar::dino_local));
  c.ops.weighted_sum(c.stream, dino_loss.rows(local_rows, 2 * b), {}, pair, step.scalar(scalar::dino_global));
  c.ops.weighted_sum(c.stream, ibot_loss,
                     c.arena.upload(c.stream, std::span<const float>(step.masked.weight)), per_view,
                     step.scalar(scalar::ibot));
}

TensorView Dinov2::features(const StepContext& step, const BatchTokens& student,
                            const BatchTokens& gradient) const {
  const Context& c = step.c;
  const int64_t b = student.images;
  const TensorView unit = c.arena.make({2 * b, width_});
  const TensorView norm = c.arena.make({2 * b});
  c.ops.l2_normalize(c.stream, student.global_class(), kKoleoNormEps, unit, norm);
  const TensorView all = gather_batch(c, unit.reshaped({2, b, width_}), step.split);
  const int64_t total = step.split.total();
  c.ops.mean_column_std(c.stream, all.reshaped({2 * total, width_}), step.scalar(scalar::column_std));
  const TensorView products = spaced_products(c, all.rows(0, 1).reshaped({total, width_}));
  if (config_.koleo_weight == 0) return products;
  const Arena::Scope scope(c.arena);
  const TensorView d_unit = c.arena.make({2, b, width_});
  koleo(c, all, step.split, step.loss_scale * config_.koleo_weight, step.scalar(scalar::koleo), d_unit,
        c.arena.make({2, total}, DType::i64));
  const TensorView dx = c.arena.make({2 * b, width_});
  c.ops.l2_normalize_backward(c.stream, d_unit.reshaped({2 * b, width_}), unit, norm, kKoleoNormEps, dx);
  c.observe("koleo", "sum of losses", step.scalar(scalar::koleo), ObservedRows::scalar);
  c.observe("koleo", "gradient of tokens", dx, ObservedRows::views);
  c.ops.axpy(c.stream, 1.0F, dx, gradient.global_class());
  return products;
}

void Dinov2::report(std::span<const double> s, ConstTensorView matrix, int64_t images,
                    StepResult& result) const {
  LossTerms& losses = result.losses;
  losses.dino_local = s[scalar::dino_local];
  losses.dino_global = s[scalar::dino_global];
  losses.ibot = s[scalar::ibot];
  losses.koleo = config_.koleo_weight * s[scalar::koleo];
  losses.total = config_.dino_weight * (losses.dino_local + losses.dino_global) +
                 config_.ibot_weight * losses.ibot + losses.koleo;
  StepHealth& health = result.health;
  health.teacher_entropy = s[scalar::entropy] / (2 * static_cast<double>(images));
  health.information = s[scalar::entropy_of_mean] - health.teacher_entropy;
  health.prototype_usage = s[scalar::usage];
  health.feature_std = s[scalar::column_std] * std::sqrt(static_cast<double>(width_));
  health.effective_rank = effective_rank(matrix.f32(), matrix.dim(0));
  const double pairs = static_cast<double>(2 * local_crops_ + 2);
  health.kl = (losses.dino_local + losses.dino_global) * DinoTerms(local_crops_).total() / pairs -
              health.teacher_entropy;
}

std::map<std::string, std::vector<double>> Dinov2::state(Stream& stream) const {
  if (config_.centering != Centering::softmax) return {};
  const SoftmaxCentre::State dino = dino_centre_.state(stream);
  const SoftmaxCentre::State ibot = ibot_centre_.state(stream);
  return {{"dino_centre", dino.centre},
          {"dino_centre_pending", dino.pending},
          {"ibot_centre", ibot.centre},
          {"ibot_centre_pending", ibot.pending}};
}

void Dinov2::set_state(Stream& stream, const std::map<std::string, std::vector<double>>& state) {
  if (config_.centering != Centering::softmax) return;
  const auto find = [&](const char* name, int64_t length) -> const std::vector<double>& {
    const auto it = state.find(name);
    if (it == state.end() || static_cast<int64_t>(it->second.size()) != length)
      throw DataError(
          fmt::format("cannot restore the softmax centres: {}: {}; start from a checkpoint of a run "
                      "with the same centring and prototypes",
                      name, it == state.end() ? "not in the checkpoint" : "has another length"));
    return it->second;
  };
  const int64_t dino = dino_.config().prototypes, ibot = patch_head().config().prototypes;
  dino_centre_.restore(stream, {find("dino_centre", dino), find("dino_centre_pending", dino)});
  ibot_centre_.restore(stream, {find("ibot_centre", ibot), find("ibot_centre_pending", ibot)});
}

}  // namespace dino
