// SPDX-License-Identifier: Apache-2.0
// The parts of a step between the crops and the gradient of the backbone's output.
#include <algorithm>

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
  targets.cls = c.arena.make(Shape{2 * b, k});
  targets.patches = c.arena.make(Shape{masked.count(), patch_prototypes()});
  if (config.local_crops > 0) targets.local = c.arena.make(Shape{b, k});
  {
    const Arena::Scope scope(c.arena);
    const std::array<CropBatch, 1> crops{CropBatch{batch.global_crops, {}}};
    VitForwardOptions options;
    const std::vector<int64_t> read =
        rows_read(token_entries(config.vit, crops), masked, config.vit.registers);
    options.read_rows = read;
    const VitOutput output = teacher_vit.forward(c, teacher, crops, options);
    const auto logits = [&](const Head& head, std::span<const int64_t> rows, TensorView out) {
      const Arena::Scope inner(c.arena);
      const TensorView x = c.arena.make(Shape{out.dim(0), config.vit.width});
      c.ops.gather_rows(c.stream, output.norm, c.arena.upload(c.stream, rows), x);
      const TensorView unit = head.forward(c, teacher, x);
      c.ops.linear(c.stream, unit, head.prototypes(c, teacher), {}, ops::Activation::none, out, {});
    };
    logits(teacher_dino, class_token_rows(output.entries[0]), targets.cls);
    if (masked.count() > 0)
      logits(teacher_ibot ? *teacher_ibot : teacher_dino,
             patch_rows(output.entries[0], masked, config.vit.registers), targets.patches);
  }
  const TensorView patch_targets = targets.patches.rows(0, masked.masked);
  fill(c.stream, targets.patches.rows(masked.masked, masked.count() - masked.masked), 0);
  if (config.centering == Centering::sinkhorn) {
    const std::array<TensorView, 2> problems{targets.cls, patch_targets};
    sinkhorn(c, problems, temperature, config.sinkhorn_iterations);
  } else {
    dino_centre.targets(c, targets.cls, 2 * split.total(), temperature);
    ibot_centre.targets(c, patch_targets, masked_total, temperature);
  }
  if (targets.local) {
    // CE(s, t1) + CE(s, t2) = CE(s, t1 + t2): one row per image serves both teacher views.
    copy(c.stream, targets.local, targets.cls.rows(0, b));
    c.ops.axpy(c.stream, 1.0F, targets.cls.rows(b, b), targets.local);
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
  pass.output = student_vit.forward(c, student, crops, options, &student_saved);
  pass.d_norm = c.arena.zeros(c.stream, pass.output.norm.shape);
  return pass;
}

void SslModel::Impl::head_losses(const Head& head, const HeadRows& rows, StudentPass& pass, TensorView loss) {
  const auto count = static_cast<int64_t>(rows.rows.size());
  if (count > 0) {
    const Arena::Scope scope(c.arena);
    const HeadConfig& shape = head.config();
    const TensorView x = c.arena.make(Shape{count, config.vit.width});
    const TensorView row_list = upload(rows.rows);
    c.ops.gather_rows(c.stream, pass.output.norm, row_list, x);
    HeadSaved saved;
    const TensorView unit = head.forward(c, student, x, &saved);
    const TensorView prototypes = head.prototypes(c, student);
    const TensorView d_prototypes = c.arena.zeros(c.stream, Shape{shape.prototypes, shape.bottleneck});
    const TensorView d_unit = c.arena.make(Shape{count, shape.bottleneck});
    prototype_cross_entropy(c, unit, prototypes, rows.segments, config.student_temperature,
                            c.arena.upload(c.stream, std::span<const float>(rows.weight)), loss, d_unit,
                            d_prototypes);
    head.prototypes_backward(c, student, d_prototypes, gradients);
    c.ops.scatter_add_rows(c.stream, head.backward(c, student, saved, d_unit, gradients), row_list,
                           pass.d_norm);
  }
  reduce_module(head.module());
}

void SslModel::Impl::cross_entropies(const SslBatch& batch, const MaskedPatches& masked,
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

  const Arena::Scope scope(c.arena);
  const TensorView dino_loss = c.arena.make(Shape{static_cast<int64_t>(dino.rows.size())});
  const TensorView ibot_loss =
      student_ibot ? c.arena.make(Shape{masked.count()}) : dino_loss.rows(dino_rows, masked.count());
  head_losses(student_dino, dino, pass, dino_loss);
  if (student_ibot) head_losses(*student_ibot, ibot, pass, ibot_loss);

  c.ops.weighted_sum(c.stream, dino_loss.rows(0, local_rows), {}, pair, one(scalar::dino_local));
  c.ops.weighted_sum(c.stream, dino_loss.rows(local_rows, 2 * b), {}, pair, one(scalar::dino_global));
  c.ops.weighted_sum(c.stream, ibot_loss, c.arena.upload(c.stream, std::span<const float>(masked.weight)),
                     per_view, one(scalar::ibot));
}

TensorView SslModel::Impl::feature_losses(const SslBatch& batch, StudentPass& pass) {
  const int64_t b = batch.images;
  const int64_t width = config.vit.width;
  const TensorView rows = upload(class_token_rows(pass.output.entries[0]));
  const TensorView x = c.arena.make(Shape{2 * b, width});
  c.ops.gather_rows(c.stream, pass.output.norm, rows, x);
  const TensorView unit = c.arena.make(Shape{2 * b, width});
  const TensorView norm = c.arena.make(Shape{2 * b});
  c.ops.l2_normalize(c.stream, x, kKoleoNormEps, unit, norm);
  const TensorView all = gather_batch(c, unit.reshaped(Shape{2, b, width}), split);
  const int64_t total = split.total();
  c.ops.mean_column_std(c.stream, all.reshaped(Shape{2 * total, width}), one(scalar::column_std));
  const TensorView products = spaced_products(c, all.rows(0, 1).reshaped(Shape{total, width}));
  if (config.koleo_weight == 0) return products;
  const Arena::Scope scope(c.arena);
  const TensorView d_unit = c.arena.make(Shape{2, b, width});
  koleo(c, all, split, config.koleo_weight, one(scalar::koleo), d_unit,
        c.arena.make(Shape{2, total}, DType::i64));
  const TensorView dx = c.arena.make(Shape{2 * b, width});
  c.ops.l2_normalize_backward(c.stream, d_unit.reshaped(Shape{2 * b, width}), unit, norm, kKoleoNormEps, dx);
  c.ops.scatter_add_rows(c.stream, dx, rows, pass.d_norm);
  return products;
}

}  // namespace dino
