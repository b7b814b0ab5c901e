// SPDX-License-Identifier: Apache-2.0
#include "training/ssl.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "training/health.hpp"
#include "training/ssl_impl.hpp"

namespace dino {
namespace {

/// 0 backbone, 1 dino_head, 2 ibot_head.
size_t module_index(const std::string& module) {
  return module == "backbone" ? 0 : module == "dino_head" ? 1 : 2;
}

ParameterLayout make_layout(const SslConfig& config) {
  ParameterLayout layout;
  append_vit_layout(layout, config.vit);
  append_head_layout(layout, config.dino_head, "dino_head");
  if (config.separate_ibot_head) append_head_layout(layout, config.ibot_head, "ibot_head");
  return layout;
}

}  // namespace

SslModel::Impl::Impl(const SslConfig& settings, Context& context, const Communicator& communicator)
    : config(settings),
      c(context),
      comm(communicator),
      layout(make_layout(settings)),
      student(layout, context.ops.memory()),
      teacher(layout, context.ops.memory()),
      gradients(layout, context.ops.memory()),
      adam_m(layout, context.ops.memory()),
      adam_v(layout, context.ops.memory()),
      student_vit(settings.vit),
      teacher_vit(settings.vit),
      student_dino(settings.dino_head, "dino_head"),
      teacher_dino(settings.dino_head, "dino_head"),
      scalars(Shape{scalar::count}, DType::f64, context.ops.memory()),
      factors(Shape{3}, DType::f32, context.ops.memory()),
      finite(Shape{1}, DType::f32, context.ops.memory()) {
  DINO_CHECK(context.precision == config.precision, "a context of another precision");
  DINO_CHECK(config.dino_head.input == config.vit.width, "the DINO head's input is not the backbone's width");
  if (config.separate_ibot_head) {
    DINO_CHECK(config.ibot_head.input == config.vit.width,
               "the iBOT head's input is not the backbone's width");
    student_ibot.emplace(config.ibot_head, "ibot_head");
    teacher_ibot.emplace(config.ibot_head, "ibot_head");
  }
  for (const ParameterInfo& info : layout.parameters()) {
    const ParameterGroup group =
        parameter_group(info.name, config.vit.depth, config.layer_decay, config.patch_embed_lr_mult);
    const size_t module = module_index(info.module);
    const int64_t end = info.offset + info.shape.numel();
    if (!spans.empty() && spans.back().unit == info.unit && spans.back().group == group)
      spans.back().end = end;
    else
      spans.push_back({info.unit, info.offset, end, module, group});
  }
  start_centres();
}

void SslModel::Impl::start_centres() {
  if (config.centering != Centering::softmax) return;
  dino_centre = SoftmaxCentre(config.dino_head.prototypes, config.centre_momentum, c.ops.memory());
  ibot_centre = SoftmaxCentre(patch_prototypes(), config.centre_momentum, c.ops.memory());
}

void SslModel::Impl::begin_step(const SslBatch& batch, const MaskedPatches& masked) {
  const int64_t b = batch.images;
  const std::array<int64_t, 2> own{b, masked.masked};
  const std::vector<int64_t> all = comm.all_gather_values(std::span<const int64_t>(own));
  split = {{}, comm.rank()};
  masked_total = 0;
  for (size_t i = 0; i < all.size(); i += 2) {
    split.counts.push_back(all[i]);
    masked_total += all[i + 1];
  }
  DINO_CHECK(*std::min_element(split.counts.begin(), split.counts.end()) > 0, "a rank has no images");
  DINO_CHECK(batch.global_crops && batch.global_crops.dim(0) == 2 * b, "two global crops per image");
  DINO_CHECK(
      config.local_crops == 0 || (batch.local_crops && batch.local_crops.dim(0) == config.local_crops * b),
      "local crops do not match the configuration");
  if (batch.masks) {
    const int64_t patches =
        batch.global_crops.dim(2) / config.vit.patch * (batch.global_crops.dim(3) / config.vit.patch);
    DINO_CHECK(batch.masks.dim(0) == 2 * b && batch.masks.dim(1) == patches, "masks do not match the crops");
  }
  c.arena.reset();
  gradients.zero(c.stream);
  fill(c.stream, scalars, 0);
  reduced.assign(layout.units().size(), false);
  reductions.clear();
}

void SslModel::Impl::reduce_unit(int64_t unit) {
  if (reduced[static_cast<size_t>(unit)]) return;
  reduced[static_cast<size_t>(unit)] = true;
  if (comm.size() == 1) return;
  const PhaseTimer timer(seconds["reduce"]);
  c.collective.poll();
  reductions.push_back(c.collective.all_reduce(c.stream, gradients.unit(unit)));
}

void SslModel::Impl::reduce_module(const std::string& module) {
  for (size_t i = 0; i < layout.units().size(); ++i)
    if (layout.units()[i].module == module) reduce_unit(static_cast<int64_t>(i));
}

void SslModel::Impl::finish_reductions() {
  const PhaseTimer timer(seconds["reduce"]);
  for (const Event& event : reductions) c.stream.wait(event);
  reductions.clear();
}

void SslModel::Impl::settle_update() {
  c.stream.wait(c.collective.all_reduce(c.stream, scalars.view().rows(0, scalar::summed)));
  for (size_t i = 0; i < layout.units().size(); ++i)
    c.ops.sum_of_squares(c.stream, gradients.unit(static_cast<int64_t>(i)),
                         one(scalar::squares + static_cast<int64_t>(module_index(layout.units()[i].module))));
  c.ops.all_finite(c.stream, scalars.view().rows(0, scalar::decisive), finite);
  c.ops.clip_factors(c.stream, scalars.view().rows(scalar::squares, 3), config.clip, factors);
}

SslStepResult SslModel::Impl::read_back(TensorView products) {
  const TensorView features = host_products.view().rows(0, products.numel());
  copy(c.stream, host_scalars, scalars);
  copy(c.stream, features, products);
  c.stream.synchronize();
  const double* s = host_scalars.as<double>();
  SslStepResult result;
  SslLosses& losses = result.losses;
  losses.dino_local = s[scalar::dino_local];
  losses.dino_global = s[scalar::dino_global];
  losses.ibot = s[scalar::ibot];
  losses.koleo = config.koleo_weight * s[scalar::koleo];
  losses.total = config.dino_weight * (losses.dino_local + losses.dino_global) +
                 config.ibot_weight * losses.ibot + losses.koleo;
  SslHealth& health = result.health;
  health.teacher_entropy = s[scalar::entropy] / (2 * total_images());
  health.information = s[scalar::entropy_of_mean] - health.teacher_entropy;
  health.prototype_usage = s[scalar::usage];
  health.feature_std = s[scalar::column_std] * std::sqrt(static_cast<double>(config.vit.width));
  health.effective_rank = effective_rank(features.f32(), products.dim(0));
  const double pairs = static_cast<double>(2 * config.local_crops + 2);
  health.kl = (losses.dino_local + losses.dino_global) * DinoTerms(config.local_crops).total() / pairs -
              health.teacher_entropy;
  for (size_t i = 0; i < result.grad_norms.size(); ++i)
    result.grad_norms[i] = std::sqrt(s[scalar::squares + i]);
  result.finite = std::all_of(s, s + scalar::decisive, [](double value) { return std::isfinite(value); });
  return result;
}

SslModel::SslModel(const SslConfig& config, Context& context, const Communicator& comm)
    : impl_(std::make_unique<Impl>(config, context, comm)) {}
SslModel::~SslModel() = default;

void SslModel::initialize(uint64_t seed) {
  Impl& m = *impl_;
  ParameterStore drawn(m.layout);
  drawn.initialize(seed);
  m.student.copy_from(m.c.stream, drawn);
  adopt_student();
  m.adam_m.zero(m.c.stream);
  m.adam_v.zero(m.c.stream);
  m.start_centres();
}

void SslModel::adopt_student() {
  impl_->teacher.copy_from(impl_->c.stream, impl_->student);
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
  return impl_->c.arena.peak_bytes();
}

std::map<std::string, std::vector<double>> SslModel::centres() const {
  if (impl_->config.centering != Centering::softmax) return {};
  const SoftmaxCentre::State dino = impl_->dino_centre.state(impl_->c.stream);
  const SoftmaxCentre::State ibot = impl_->ibot_centre.state(impl_->c.stream);
  return {{"dino_centre", dino.centre},
          {"dino_centre_pending", dino.pending},
          {"ibot_centre", ibot.centre},
          {"ibot_centre_pending", ibot.pending}};
}

void SslModel::set_centres(const std::map<std::string, std::vector<double>>& centres) {
  if (impl_->config.centering != Centering::softmax) return;
  const auto find = [&](const char* name, int64_t length) -> const std::vector<double>& {
    const auto it = centres.find(name);
    if (it == centres.end() || static_cast<int64_t>(it->second.size()) != length)
      throw DataError(
          fmt::format("cannot restore the softmax centres: {}: {}; start from a checkpoint of a run "
                      "with the same centring and prototypes",
                      name, it == centres.end() ? "not in the checkpoint" : "has another length"));
    return it->second;
  };
  const int64_t dino = impl_->config.dino_head.prototypes, ibot = impl_->patch_prototypes();
  impl_->dino_centre.restore(impl_->c.stream, {find("dino_centre", dino), find("dino_centre_pending", dino)});
  impl_->ibot_centre.restore(impl_->c.stream, {find("ibot_centre", ibot), find("ibot_centre_pending", ibot)});
}

SslStepResult SslModel::forward_backward(const SslBatch& given, const SslSchedule& schedule,
                                         const DropPathPlan& drop_path) {
  Impl& m = *impl_;
  for (auto& [phase, seconds] : m.seconds) seconds = 0;
  const MaskedPatches masked = m.masked_patches(given);
  m.begin_step(given, masked);
  SslBatch batch = given;
  batch.global_crops = device_view(m.c, given.global_crops);
  batch.local_crops = device_view(m.c, given.local_crops);

  const TeacherTargets targets = m.teacher_targets(batch, masked, schedule.teacher_temperature);
  StudentPass pass = m.student_forward(batch, masked, drop_path);
  const double reduce_before = m.seconds["reduce"];
  Stopwatch watch;
  target_health(m.c, targets.cls, 2 * m.split.total(), m.one(scalar::entropy),
                m.scalars.view().rows(scalar::entropy_of_mean, 2));
  m.cross_entropies(batch, masked, targets, pass);
  const TensorView products = m.feature_losses(batch, pass);
  m.seconds["losses"] = watch.seconds() - (m.seconds["reduce"] - reduce_before);

  watch.restart();
  const double reduce_heads = m.seconds["reduce"];
  if (!schedule.backbone_frozen)
    m.student_vit.backward(m.c, m.student, *m.student_saved, pass.d_norm, {}, m.gradients,
                           [&](int64_t unit) { m.reduce_unit(unit); });
  for (size_t unit = 0; unit < m.reduced.size(); ++unit)
    if (!schedule.backbone_frozen || m.layout.units()[unit].module != "backbone")
      m.reduce_unit(static_cast<int64_t>(unit));
  m.finish_reductions();
  m.seconds["backward"] = watch.seconds() - (m.seconds["reduce"] - reduce_heads);
  m.settle_update();
  return m.read_back(products);
}

void SslModel::update(const SslSchedule& schedule, int64_t step) {
  Impl& m = *impl_;
  const PhaseTimer timer(m.seconds["optimizer"]);
  for (const UpdateSpan& span : m.spans) {
    const bool backbone = span.module == 0;
    if (backbone && schedule.backbone_frozen) continue;
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
    const auto part = [&](ParameterStore& store) {
      return store.unit(span.unit).rows(span.begin, span.end - span.begin);
    };
    m.c.ops.adamw(m.c.stream, part(m.student), part(m.gradients), part(m.adam_m), part(m.adam_v), settings,
                  m.factors.view().rows(static_cast<int64_t>(span.module), 1), m.finite);
  }
  for (size_t unit = 0; unit < m.layout.units().size(); ++unit) {
    // The mean of two equal numbers may differ from them in the last bit.
    if (schedule.backbone_frozen && m.layout.units()[unit].module == "backbone") continue;
    const auto i = static_cast<int64_t>(unit);
    m.c.ops.ema(m.c.stream, m.teacher.unit(i), m.student.unit(i), static_cast<float>(schedule.momentum),
                m.finite);
  }
}

}  // namespace dino
