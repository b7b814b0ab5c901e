// SPDX-License-Identifier: Apache-2.0
#pragma once
// The inside of SslModel, shared by its source files only.

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/timing.hpp"
#include "training/health.hpp"
#include "training/losses.hpp"
#include "training/ssl.hpp"

namespace dino {

/// Adds the time until its end to a phase.
class PhaseTimer {
 public:
  explicit PhaseTimer(double& seconds) : seconds_(seconds) {}
  ~PhaseTimer() { seconds_ += watch_.seconds(); }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  double& seconds_;
  Stopwatch watch_;
};

/// Consecutive parameters of a unit that AdamW treats alike (padding between them is zero and stays zero).
struct UpdateSpan {
  int64_t unit = 0, begin = 0, end = 0;
  size_t module = 0;  ///< 0 backbone, 1 dino_head, 2 ibot_head
  ParameterGroup group;
};

/// The masked patches of this rank, view by view, then unmasked ones that fill up the shape.
struct MaskedPatches {
  std::vector<int64_t> view, patch;
  std::vector<float> weight;  ///< 1 / masked patches of the view; 0 where not masked
  int64_t masked = 0;
  [[nodiscard]] int64_t count() const { return static_cast<int64_t>(view.size()); }
  void add(int64_t of_view, int64_t of_patch, float of_weight) {
    view.push_back(of_view);
    patch.push_back(of_patch);
    weight.push_back(of_weight);
  }
};

/// Rows of the teacher's targets; B images, M masked patches on this rank.
struct TeacherTargets {
  TensorView cls;      ///< [2B, K]: view 1 of all images, then view 2
  TensorView local;    ///< [B, K]: the sum over both views, sums to 2; empty without local crops
  TensorView patches;  ///< [M, K of the iBOT head]; zero for the filling
};

/// A student's forward pass, until the backward pass has used it.
struct StudentPass {
  VitOutput output;
  TensorView d_norm;  ///< [rows, D], collects the gradients of the losses
};

/// The rows of one head's cross-entropies.
struct HeadRows {
  std::vector<int64_t> rows;         ///< of the packed token matrix
  std::vector<TargetRows> segments;  ///< their targets
  std::vector<float> weight;         ///< of each row in the objective
};

/// Where a step's scalars lie in one tensor, f64, which is read back once.
namespace scalar {
enum : int64_t {
  // Sums over ranks. A step with any of them, or any squared gradient norm, not finite is not applied.
  dino_local,
  dino_global,
  ibot,
  koleo,
  entropy,
  squares,  ///< of the gradients: backbone, dino_head, ibot_head
  entropy_of_mean = squares + 3,
  usage,
  column_std,
  count,
};
constexpr int64_t summed = entropy + 1;
constexpr int64_t decisive = squares + 3;
}  // namespace scalar

struct SslModel::Impl {
  Impl(const SslConfig& settings, Context& context, const Communicator& communicator);

  SslConfig config;
  Context& c;
  const Communicator& comm;
  ParameterLayout layout;
  ParameterStore student, teacher, gradients, adam_m, adam_v;
  Vit student_vit, teacher_vit;
  Head student_dino, teacher_dino;
  std::optional<Head> student_ibot, teacher_ibot;  ///< empty when the DINO head takes the patches too
  SoftmaxCentre dino_centre, ibot_centre;
  std::vector<UpdateSpan> spans;
  std::vector<Event> reductions;  ///< of this step, by unit
  std::vector<bool> reduced;      ///< units of this step
  Tensor scalars;                 ///< f64 [scalar::count]
  Tensor factors;                 ///< f32 [3]: of the gradients, for clipping
  Tensor finite;                  ///< f32 [1]: whether the update is applied
  Tensor host_scalars{Shape{scalar::count}, DType::f64};
  Tensor host_products{Shape{kRankRows * kRankRows}};
  std::shared_ptr<VitSaved> student_saved;  ///< of the last step; the next one reuses it
  std::map<std::string, double> seconds;

  [[nodiscard]] int64_t patch_prototypes() const {
    return (config.separate_ibot_head ? config.ibot_head : config.dino_head).prototypes;
  }
  [[nodiscard]] TensorView one(int64_t index) { return scalars.view().rows(index, 1); }
  [[nodiscard]] TensorView upload(const std::vector<int64_t>& rows) const {
    return c.arena.upload(c.stream, std::span<const int64_t>(rows));
  }

  BatchSplit split;          ///< of this step's images
  int64_t masked_total = 0;  ///< masked patches of all ranks
  /// Of the global batch. Losses and gradients are divided by it, so that their sums over ranks are means
  /// over the global batch.
  [[nodiscard]] double total_images() const { return static_cast<double>(split.total()); }

  /// Zeros, with softmax centring.
  void start_centres();
  /// Checks the batch, learns the other ranks' sizes, clears what the step adds to. Collective.
  void begin_step(const SslBatch& batch, const MaskedPatches& masked);
  [[nodiscard]] MaskedPatches masked_patches(const SslBatch& batch) const;
  TeacherTargets teacher_targets(const SslBatch& batch, const MaskedPatches& masked, double temperature);
  StudentPass student_forward(const SslBatch& batch, const MaskedPatches& masked,
                              const DropPathPlan& drop_path);
  /// Cross-entropies of one head's rows: fills `loss` [rows], adds to pass.d_norm and to the head's
  /// gradients.
  void head_losses(const Head& head, const HeadRows& rows, StudentPass& pass, TensorView loss);
  /// DINO and iBOT; adds this rank's terms to the scalars.
  void cross_entropies(const SslBatch& batch, const MaskedPatches& masked, const TeacherTargets& targets,
                       StudentPass& pass);
  /// KoLeo's term, and the features' health; returns the products that the effective rank follows from.
  TensorView feature_losses(const SslBatch& batch, StudentPass& pass);

  /// gradients of a unit <- sum over ranks; under way until finish_reductions().
  void reduce_unit(int64_t unit);
  void reduce_module(const std::string& module);
  void finish_reductions();
  /// Gradient norms, clip factors and whether all is finite, from the reduced gradients.
  void settle_update();
  /// The one read-back of a step.
  [[nodiscard]] SslStepResult read_back(TensorView products);
};

}  // namespace dino
