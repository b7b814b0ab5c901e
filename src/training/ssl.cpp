// SPDX-License-Identifier: Apache-2.0
#include "training/ssl.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "training/health.hpp"
#include "training/ssl_impl.hpp"

namespace dino {
namespace {

ParameterLayout make_layout(const SslConfig& config) {
  ParameterLayout layout;
  append_vit_layout(layout, config.vit);
  append_head_layout(layout, config.dino_head, "dino_head");
  if (config.separate_ibot_head) append_head_layout(layout, config.ibot_head, "ibot_head");
  return layout;
}

std::vector<double> widen(std::span<const float> values) {
  return {values.begin(), values.end()};
}

}  // namespace

SslModel::Impl::Impl(const SslConfig& settings, const Communicator& communicator)
    : config(settings),
      comm(communicator),
      backend(ops::backend()),
      layout(make_layout(settings)),
      student(layout),
      teacher(layout),
      gradients(layout),
      adam_m(layout),
      adam_v(layout),
      student_vit(settings.vit, settings.precision),
      teacher_vit(settings.vit, settings.precision),
      student_dino(settings.dino_head, settings.precision, "dino_head"),
      teacher_dino(settings.dino_head, settings.precision, "dino_head") {
  DINO_CHECK(config.dino_head.input == config.vit.width, "the DINO head's input is not the backbone's width");
  if (config.separate_ibot_head) {
    DINO_CHECK(config.ibot_head.input == config.vit.width,
               "the iBOT head's input is not the backbone's width");
    student_ibot.emplace(config.ibot_head, config.precision, "ibot_head");
    teacher_ibot.emplace(config.ibot_head, config.precision, "ibot_head");
  }
  if (config.centering == Centering::softmax) {
    dino_centre = SoftmaxCentre(config.dino_head.prototypes, config.centre_momentum);
    ibot_centre = SoftmaxCentre(patch_prototypes(), config.centre_momentum);
  }
  for (const ParameterInfo& info : layout.parameters()) {
    const ParameterGroup group =
        parameter_group(info.name, config.vit.depth, config.layer_decay, config.patch_embed_lr_mult);
    const size_t module = info.module == "backbone" ? 0 : info.module == "dino_head" ? 1 : 2;
    const int64_t end = info.offset + info.shape.numel();
    if (!spans.empty() && spans.back().unit == info.unit && spans.back().group == group)
      spans.back().end = end;
    else
      spans.push_back({info.unit, info.offset, end, module, group});
  }
}

double SslModel::Impl::total_images() const {
  return static_cast<double>(std::accumulate(images.begin(), images.end(), int64_t{0}));
}

void SslModel::Impl::begin_step(const SslBatch& batch) {
  const int64_t b = batch.images;
  images = comm.all_gather_values(std::span<const int64_t>(&b, 1));
  DINO_CHECK(*std::min_element(images.begin(), images.end()) > 0, "a rank has no images");
  DINO_CHECK(batch.global_crops && batch.global_crops.dim(0) == 2 * b, "two global crops per image");
  DINO_CHECK(
      config.local_crops == 0 || (batch.local_crops && batch.local_crops.dim(0) == config.local_crops * b),
      "local crops do not match the configuration");
  if (batch.masks) {
    const int64_t patches =
        batch.global_crops.dim(2) / config.vit.patch * (batch.global_crops.dim(3) / config.vit.patch);
    DINO_CHECK(batch.masks.dim(0) == 2 * b && batch.masks.dim(1) == patches, "masks do not match the crops");
  }
}

void SslModel::Impl::reduce_unit(int64_t unit) {
  if (reduced[static_cast<size_t>(unit)]) return;
  reduced[static_cast<size_t>(unit)] = true;
  if (comm.size() == 1) return;
  const PhaseTimer timer(seconds["reduce"]);
  comm.all_reduce(gradients.unit(unit));
}

void SslModel::Impl::reduce_module(const std::string& module) {
  for (size_t i = 0; i < layout.units().size(); ++i)
    if (layout.units()[i].module == module) reduce_unit(static_cast<int64_t>(i));
}

std::array<double, 3> SslModel::Impl::gradient_norms() const {
  std::array<double, 3> squares{};
  for (size_t i = 0; i < layout.units().size(); ++i) {
    const std::string& module = layout.units()[i].module;
    squares[module == "backbone"    ? 0
            : module == "dino_head" ? 1
                                    : 2] += backend.sum_of_squares(gradients.unit(static_cast<int64_t>(i)));
  }
  return {std::sqrt(squares[0]), std::sqrt(squares[1]), std::sqrt(squares[2])};
}

void SslModel::Impl::reduce_results(SslStepResult& result, const TargetHealth& targets) const {
  SslLosses& losses = result.losses;
  SslHealth& health = result.health;
  std::array<double, 6> sums{losses.dino_local, losses.dino_global, losses.ibot,
                             losses.koleo,      health.feature_std, health.effective_rank};
  comm.all_reduce(std::span<double>(sums));
  losses.dino_local = sums[0];
  losses.dino_global = sums[1];
  losses.ibot = sums[2];
  losses.koleo = sums[3];
  losses.total = config.dino_weight * (losses.dino_local + losses.dino_global) +
                 config.ibot_weight * losses.ibot + losses.koleo;
  health.feature_std = sums[4];
  health.effective_rank = sums[5];
  health.teacher_entropy = targets.mean_entropy;
  health.information = targets.entropy_of_mean - targets.mean_entropy;
  health.prototype_usage = targets.usage;
  const double pairs = static_cast<double>(2 * config.local_crops + 2);
  health.kl = (losses.dino_local + losses.dino_global) * DinoTerms(config.local_crops).total() / pairs -
              targets.mean_entropy;
}

SslModel::SslModel(const SslConfig& config, const Communicator& comm)
    : impl_(std::make_unique<Impl>(config, comm)) {}
SslModel::~SslModel() = default;

void SslModel::initialize(uint64_t seed) {
  impl_->student.initialize(seed);
  impl_->teacher.copy_from(impl_->student);
  impl_->adam_m.zero();
  impl_->adam_v.zero();
  if (impl_->config.centering == Centering::softmax) {
    impl_->dino_centre = SoftmaxCentre(impl_->config.dino_head.prototypes, impl_->config.centre_momentum);
    impl_->ibot_centre = SoftmaxCentre(impl_->patch_prototypes(), impl_->config.centre_momentum);
  }
}

const SslConfig& SslModel::config() const {
  return impl_->config;
}
const ParameterLayout& SslModel::layout() const {
  return impl_->layout;
}
ParameterStore& SslModel::student() {
  return impl_->student;
}
ParameterStore& SslModel::teacher() {
  return impl_->teacher;
}
ParameterStore& SslModel::gradients() {
  return impl_->gradients;
}
ParameterStore& SslModel::adam_m() {
  return impl_->adam_m;
}
ParameterStore& SslModel::adam_v() {
  return impl_->adam_v;
}
const std::map<std::string, double>& SslModel::phase_seconds() const {
  return impl_->seconds;
}
int64_t SslModel::arena_bytes() const {
  return impl_->arena.peak_bytes();
}

std::map<std::string, std::vector<double>> SslModel::centres() const {
  if (impl_->config.centering != Centering::softmax) return {};
  return {{"dino_centre", widen(impl_->dino_centre.centre())},
          {"dino_centre_pending", widen(impl_->dino_centre.pending())},
          {"ibot_centre", widen(impl_->ibot_centre.centre())},
          {"ibot_centre_pending", widen(impl_->ibot_centre.pending())}};
}

void SslModel::set_centres(const std::map<std::string, std::vector<double>>& centres) {
  if (impl_->config.centering != Centering::softmax) return;
  const auto find = [&](const char* name, std::span<const float> like) -> const std::vector<double>& {
    const auto it = centres.find(name);
    if (it == centres.end() || it->second.size() != like.size())
      throw DataError(
          fmt::format("cannot restore the softmax centres: {}: {}; start from a checkpoint of a run "
                      "with the same centring and prototypes",
                      name, it == centres.end() ? "not in the checkpoint" : "has another length"));
    return it->second;
  };
  impl_->dino_centre.restore(find("dino_centre", impl_->dino_centre.centre()),
                             find("dino_centre_pending", impl_->dino_centre.centre()));
  impl_->ibot_centre.restore(find("ibot_centre", impl_->ibot_centre.centre()),
                             find("ibot_centre_pending", impl_->ibot_centre.centre()));
}

SslStepResult SslModel::forward_backward(const SslBatch& batch, const SslSchedule& schedule,
                                         const DropPathPlan& drop_path) {
  Impl& m = *impl_;
  for (auto& [phase, seconds] : m.seconds) seconds = 0;
  m.begin_step(batch);
  m.arena.reset();
  m.gradients.zero();
  m.reduced.assign(m.layout.units().size(), false);

  SslStepResult result;
  const MaskedPatches masked = m.masked_patches(batch);
  const TeacherTargets targets = m.teacher_targets(batch, masked, schedule.teacher_temperature);
  StudentPass pass = m.student_forward(batch, masked, drop_path);
  const double reduce_before = m.seconds["reduce"];
  Stopwatch watch;
  const TargetHealth health = target_health(targets.cls, m.comm, m.arena, m.backend);
  result.losses = m.cross_entropies(batch, masked, targets, pass);
  result.losses.koleo = m.feature_losses(batch, pass, result.health);
  m.seconds["losses"] = watch.seconds() - (m.seconds["reduce"] - reduce_before);

  watch.restart();
  const double reduce_heads = m.seconds["reduce"];
  if (!schedule.backbone_frozen)
    m.student_vit.backward(m.student, *m.student_saved, pass.d_norm, {}, m.gradients, m.arena,
                           [&](int64_t unit) { m.reduce_unit(unit); });
  for (size_t unit = 0; unit < m.reduced.size(); ++unit)
    if (!schedule.backbone_frozen || m.layout.units()[unit].module != "backbone")
      m.reduce_unit(static_cast<int64_t>(unit));
  m.seconds["backward"] = watch.seconds() - (m.seconds["reduce"] - reduce_heads);

  m.reduce_results(result, health);
  result.grad_norms = m.gradient_norms();
  const bool finite =
      std::isfinite(result.losses.total) && std::all_of(result.grad_norms.begin(), result.grad_norms.end(),
                                                        [](double norm) { return std::isfinite(norm); });
  result.finite = !m.comm.any(!finite);
  return result;
}

void SslModel::update(const SslSchedule& schedule, const SslStepResult& result, int64_t step) {
  Impl& m = *impl_;
  const PhaseTimer timer(m.seconds["optimizer"]);
  std::array<double, 3> factor{1, 1, 1};
  if (m.config.clip > 0)
    for (size_t i = 0; i < factor.size(); ++i)
      factor[i] = std::min(1.0, m.config.clip / (result.grad_norms[i] + 1e-6));
  for (const UpdateSpan& span : m.spans) {
    const bool backbone = span.module == 0;
    if (backbone && schedule.backbone_frozen) continue;
    const auto first = static_cast<size_t>(span.begin);
    const auto count = static_cast<size_t>(span.end - span.begin);
    // A frozen last layer has rate 0: neither step nor decay, while its moments go on.
    const double lr =
        (span.group.is_last_layer ? schedule.last_layer_lr : schedule.lr) * span.group.lr_multiplier;
    ops::Backend::AdamW settings{};
    settings.learning_rate = static_cast<float>(lr);
    settings.beta1 = static_cast<float>(m.config.beta1);
    settings.beta2 = static_cast<float>(m.config.beta2);
    settings.eps = static_cast<float>(m.config.adam_eps);
    settings.weight_decay = static_cast<float>(schedule.weight_decay * span.group.wd_multiplier);
    settings.step = backbone ? step - schedule.frozen_updates : step;
    settings.gradient_scale = static_cast<float>(factor[span.module]);
    m.backend.adamw(m.student.unit(span.unit).subspan(first, count),
                    m.gradients.unit(span.unit).subspan(first, count),
                    m.adam_m.unit(span.unit).subspan(first, count),
                    m.adam_v.unit(span.unit).subspan(first, count), settings);
  }
  for (size_t unit = 0; unit < m.layout.units().size(); ++unit) {
    // The mean of two equal numbers may differ from them in the last bit.
    if (schedule.backbone_frozen && m.layout.units()[unit].module == "backbone") continue;
    const auto i = static_cast<int64_t>(unit);
    m.backend.ema(m.teacher.unit(i), m.student.unit(i), static_cast<float>(schedule.momentum));
  }
}

}  // namespace dino
