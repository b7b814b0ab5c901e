// SPDX-License-Identifier: Apache-2.0
// The parts of a step between the crops and the gradient of the backbone's output.
#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "training/health.hpp"
#include "training/ssl_impl.hpp"

namespace dino {
namespace {

constexpr float kKoleoNormEps = 1e-8F;
constexpr int64_t kFillQuantum = 64;

std::vector<int64_t> class_token_rows(const TokenEntry& entry) {
  std::vector<int64_t> rows;
  for (int64_t image = 0; image < entry.batch; ++image) rows.push_back(entry.cls_row(image));
  return rows;
}

std::vector<int64_t> patch_rows(const TokenEntry& entry, const MaskedPatches& masked, int64_t registers) {
  std::vector<int64_t> rows;
  for (size_t i = 0; i < masked.view.size(); ++i)
    rows.push_back(entry.patch_row(masked.view[i], masked.patch[i], registers));
  return rows;
}

/// The rows that the losses read: class tokens of all entries, and the (partly) masked patches of the first.
std::vector<int64_t> rows_read(std::span<const TokenEntry> entries, const MaskedPatches& masked,
                               int64_t registers) {
  std::vector<int64_t> rows = patch_rows(entries.front(), masked, registers);
  for (const TokenEntry& entry : entries) {
    const std::vector<int64_t> classes = class_token_rows(entry);
    rows.insert(rows.end(), classes.begin(), classes.end());
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

double sum(TensorView values, int64_t begin, int64_t count) {
  double total = 0;
  for (const float value : values.f32().subspan(static_cast<size_t>(begin), static_cast<size_t>(count)))
    total += static_cast<double>(value);
  return total;
}

}  // namespace

MaskedPatches SslModel::Impl::masked_patches(const SslBatch& batch) const {
  MaskedPatches masked;
  if (!batch.masks) return masked;
  const int64_t patches = batch.masks.dim(1);
  for (int64_t view = 0; view < batch.masks.dim(0); ++view) {
    const uint8_t* row = batch.masks.as<uint8_t>() + view * patches;
    const size_t first = masked.view.size();
    for (int64_t patch = 0; patch < patches; ++patch)
      if (row[patch] != 0) masked.add(view, patch, 0);
    const size_t count = masked.view.size() - first;
    std::fill_n(masked.weight.begin() + static_cast<std::ptrdiff_t>(first), count,
                1.0F / static_cast<float>(count == 0 ? 1 : count));
  }
  masked.masked = masked.count();
  const int64_t wanted = batch.masked_bound > 0
                             ? batch.masked_bound
                             : (masked.masked + kFillQuantum - 1) / kFillQuantum * kFillQuantum;
  const uint8_t* mask = batch.masks.as<uint8_t>();
  for (int64_t i = 0; i < batch.masks.numel() && masked.count() < wanted; ++i)
    if (mask[i] == 0) masked.add(i / patches, i % patches, 0);
  return masked;
}

TeacherTargets SslModel::Impl::teacher_targets(const SslBatch& batch, const MaskedPatches& masked,
                                               double temperature) {
  const PhaseTimer timer(seconds["teacher"]);
  const int64_t b = batch.images;
  const int64_t k = config.dino_head.prototypes;
  TeacherTargets targets;
  targets.cls = arena.make(Shape{2 * b, k});
  targets.patches = arena.make(Shape{masked.count(), patch_prototypes()});
  if (config.local_crops > 0) targets.local = arena.make(Shape{b, k});
  {
    const Arena::Scope scope(arena);
    const std::array<CropBatch, 1> crops{CropBatch{batch.global_crops, {}}};
    VitForwardOptions options;
    const std::vector<int64_t> read =
        rows_read(token_entries(config.vit, crops), masked, config.vit.registers);
    options.read_rows = read;
    const VitOutput output = teacher_vit.forward(teacher, crops, options, arena);
    const auto logits = [&](const Head& head, std::span<const int64_t> rows, TensorView out) {
      const Arena::Scope inner(arena);
      const TensorView x = arena.make(Shape{out.dim(0), config.vit.width});
      backend.gather_rows(output.norm, rows, x);
      const TensorView unit = head.forward(teacher, x, arena);
      backend.linear(unit, head.prototypes(teacher, arena), {}, ops::Activation::none, out, {});
    };
    logits(teacher_dino, class_token_rows(output.entries[0]), targets.cls);
    if (masked.count() > 0)
      logits(teacher_ibot ? *teacher_ibot : teacher_dino,
             patch_rows(output.entries[0], masked, config.vit.registers), targets.patches);
  }
  const TensorView patch_targets = targets.patches.rows(0, masked.masked);
  targets.patches.rows(masked.masked, masked.count() - masked.masked).zero();
  if (config.centering == Centering::sinkhorn) {
    const std::array<TensorView, 2> problems{targets.cls, patch_targets};
    sinkhorn(problems, temperature, config.sinkhorn_iterations, comm, arena, backend);
  } else {
    dino_centre.targets(targets.cls, temperature, comm, arena, backend);
    ibot_centre.targets(patch_targets, temperature, comm, arena, backend);
  }
  if (targets.local) {
    // CE(s, t1) + CE(s, t2) = CE(s, t1 + t2): one row per image serves both teacher views.
    std::memcpy(targets.local.data, targets.cls.data, static_cast<size_t>(b * k) * sizeof(float));
    backend.axpy(1.0F, targets.cls.rows(b, b), targets.local);
  }
  return targets;
}

StudentPass SslModel::Impl::student_forward(const SslBatch& batch, const MaskedPatches& masked,
                                            const DropPathPlan& drop_path) {
  const PhaseTimer timer(seconds["student_forward"]);
  std::vector<CropBatch> crops{{batch.global_crops, batch.masks}};
  if (config.local_crops > 0) crops.push_back({batch.local_crops, {}});
  VitForwardOptions options;
  if (!drop_path.empty()) options.drop_path = &drop_path;
  const std::vector<int64_t> read = rows_read(token_entries(config.vit, crops), masked, config.vit.registers);
  options.read_rows = read;
  StudentPass pass;
  pass.output = student_vit.forward(student, crops, options, arena, &student_saved);
  pass.d_norm = arena.zeros(pass.output.norm.shape);
  return pass;
}

void SslModel::Impl::head_losses(const Head& head, const HeadRows& rows, StudentPass& pass, TensorView loss) {
  const auto count = static_cast<int64_t>(rows.rows.size());
  if (count > 0) {
    const Arena::Scope scope(arena);
    const HeadConfig& shape = head.config();
    const TensorView x = arena.make(Shape{count, config.vit.width});
    backend.gather_rows(pass.output.norm, rows.rows, x);
    HeadSaved saved;
    const TensorView unit = head.forward(student, x, arena, &saved);
    const TensorView prototypes = head.prototypes(student, arena);
    const TensorView d_prototypes = arena.zeros(Shape{shape.prototypes, shape.bottleneck});
    const TensorView d_unit = arena.make(Shape{count, shape.bottleneck});
    prototype_cross_entropy(unit, prototypes, rows.segments, config.student_temperature,
                            view_of(rows.weight.data(), Shape{count}), loss, d_unit, d_prototypes, arena,
                            backend);
    head.prototypes_backward(student, d_prototypes, gradients);
    backend.scatter_add_rows(head.backward(student, saved, d_unit, gradients, arena), rows.rows, pass.d_norm);
  }
  reduce_module(head.module());
}

SslLosses SslModel::Impl::cross_entropies(const SslBatch& batch, const MaskedPatches& masked,
                                          const TeacherTargets& targets, StudentPass& pass) {
  const int64_t b = batch.images;
  const int64_t local_rows = config.local_crops * b;
  const int64_t dino_rows = local_rows + 2 * b;
  const double pair = 1.0 / (total_images() * DinoTerms(config.local_crops).total());

  // Rows [local crops | view 1 | view 2 | masked patches]; each global view is taught by the other one.
  HeadRows dino, ibot;
  if (local_rows > 0) dino.rows = class_token_rows(pass.output.entries[1]);
  for (int64_t crop = 0; crop < config.local_crops; ++crop)
    dino.segments.push_back({crop * b, targets.local});
  const std::vector<int64_t> global = class_token_rows(pass.output.entries[0]);
  dino.rows.insert(dino.rows.end(), global.begin(), global.end());
  dino.segments.push_back({local_rows, targets.cls.rows(b, b)});
  dino.segments.push_back({local_rows + b, targets.cls.rows(0, b)});
  dino.weight.assign(static_cast<size_t>(dino_rows), static_cast<float>(config.dino_weight * pair));

  const int64_t first_patch = student_ibot ? 0 : dino_rows;
  HeadRows& patches = student_ibot ? ibot : dino;
  const std::vector<int64_t> masked_rows = patch_rows(pass.output.entries[0], masked, config.vit.registers);
  patches.rows.insert(patches.rows.end(), masked_rows.begin(), masked_rows.end());
  patches.segments.push_back({first_patch, targets.patches});
  const double per_view = 1.0 / (2 * total_images());
  for (const float weight : masked.weight)
    patches.weight.push_back(static_cast<float>(config.ibot_weight * per_view * static_cast<double>(weight)));

  const Arena::Scope scope(arena);
  const TensorView dino_loss = arena.make(Shape{static_cast<int64_t>(dino.rows.size())});
  const TensorView ibot_loss =
      student_ibot ? arena.make(Shape{masked.count()}) : dino_loss.rows(dino_rows, masked.count());
  head_losses(student_dino, dino, pass, dino_loss);
  if (student_ibot) head_losses(*student_ibot, ibot, pass, ibot_loss);

  SslLosses losses;
  losses.dino_local = sum(dino_loss, 0, local_rows) * pair;
  losses.dino_global = sum(dino_loss, local_rows, 2 * b) * pair;
  for (size_t i = 0; i < masked.weight.size(); ++i)
    losses.ibot += per_view * static_cast<double>(masked.weight[i] * ibot_loss.f32()[i]);
  return losses;
}

double SslModel::Impl::feature_losses(const SslBatch& batch, StudentPass& pass, SslHealth& health) {
  const Arena::Scope scope(arena);
  const int64_t b = batch.images;
  const int64_t width = config.vit.width;
  const std::vector<int64_t> rows = class_token_rows(pass.output.entries[0]);
  const TensorView x = arena.make(Shape{2 * b, width});
  backend.gather_rows(pass.output.norm, rows, x);
  const TensorView unit = arena.make(Shape{2 * b, width});
  const TensorView norm = arena.make(Shape{2 * b});
  backend.l2_normalize(x, kKoleoNormEps, unit, norm);
  // [ranks, 2, capacity, D]: parts of equal size are gathered in place.
  const int64_t capacity = *std::max_element(images.begin(), images.end());
  const TensorView all = arena.zeros(Shape{comm.size(), 2, capacity, width});
  for (int64_t view = 0; view < 2; ++view)
    std::memcpy(all.as<float>() + (comm.rank() * 2 + view) * capacity * width, unit.rows(view * b, b).data,
                static_cast<size_t>(b * width) * sizeof(float));
  comm.all_gather_in_place(all.f32());
  const GatheredRows gathered{all, images};
  if (comm.root()) {
    const FeatureHealth features = feature_health(gathered, arena, backend);
    health.feature_std = features.std;
    health.effective_rank = features.effective_rank;
  }
  if (config.koleo_weight == 0) return 0;
  const TensorView d_unit = arena.make(Shape{2, b, width});
  const KoLeoResult result = koleo(gathered, config.koleo_weight, d_unit, comm, arena, backend);
  const TensorView dx = arena.make(Shape{2 * b, width});
  backend.l2_normalize_backward(d_unit.reshaped(Shape{2 * b, width}), unit, norm, kKoleoNormEps, dx);
  backend.scatter_add_rows(dx, rows, pass.d_norm);
  return config.koleo_weight * result.loss;
}

}  // namespace dino
