// SPDX-License-Identifier: Apache-2.0
#pragma once
// A training step: tokens of teacher and student, the objective on the global batch, the backward pass, the
// update. Ranks, micro-batches and shards are its business alone.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "model/vit.hpp"
#include "parallel/parameter_state.hpp"
#include "training/config.hpp"
#include "training/loss_scale.hpp"
#include "training/objectives/objective.hpp"
#include "training/optimizer.hpp"
#include "training/step.hpp"
#include "training/tokens.hpp"

namespace dino {

class Engine {
 public:
  /// On the context's device; the communicator is that of its collective. Both must outlive the engine, whose
  /// steps reset the context's arena. Collective.
  Engine(const TrainingConfig& config, Context& context, const Communicator& comm);
  /// Student drawn from `seed`; the teacher starts equal to it.
  void initialize(uint64_t seed);
  /// The same with a student of the caller's, who writes one whole unit after another (f32 on the host).
  void begin_with(const std::function<void(int64_t unit, TensorView values)>& fill);

  [[nodiscard]] const TrainingConfig& config() const { return config_; }
  [[nodiscard]] const ParameterLayout& layout() const { return layout_; }
  [[nodiscard]] ParameterState& state() { return state_; }
  /// In which the state's values change.
  [[nodiscard]] Stream& stream() const { return c_.stream; }
  /// What a checkpoint keeps besides: the objective's, and the loss scale.
  [[nodiscard]] std::map<std::string, std::vector<double>> objective_state() const;
  void set_objective_state(const std::map<std::string, std::vector<double>>& state);

  /// Of the next step.
  [[nodiscard]] double loss_scale() const { return loss_scale_.value(); }

  /// Forward and backward of both networks: the gradients of the mean over the global batch, times the loss
  /// scale, in state().gradient_values(). Collective.
  [[nodiscard]] StepResult forward_backward(const StepBatch& batch, const StepSchedule& schedule,
                                            const DropPathDraw& drop_path);
  /// Clip, AdamW (step counts from 1), EMA of the teacher. After a step that was not finite it changes
  /// nothing. Collective.
  void update(const StepSchedule& schedule, int64_t step);

  /// Seconds per phase of the last step ("prepare", "teacher", "student_forward", "losses", "backward",
  /// "reduce", "settle", "optimizer"). Where the stream has a clock: of what the device did from the last
  /// read-back but one to the last, so that the optimizer is the step before's; and phases that others began
  /// on the clock.
  [[nodiscard]] const std::map<std::string, double>& phase_seconds() const { return seconds_; }
  /// Their sum by the device's clock; nothing where the host's clock is the stream's.
  [[nodiscard]] std::optional<double> device_seconds() const { return device_seconds_; }
  [[nodiscard]] int64_t arena_bytes() const { return c_.arena.peak_bytes(); }

 private:
  /// Checks the batch, learns the other ranks' sizes, clears what the step adds to. Collective.
  void begin_step(const StepBatch& batch);
  [[nodiscard]] BatchTokens make_tokens(int64_t images, int64_t local_crops);
  void observe_pass(const char* pass, Range images) const;
  [[nodiscard]] Range micro_images(int64_t images, int64_t micro) const;
  void teacher_tokens(const StepBatch& batch, const BatchTokens& tokens);
  /// Runs the student on a micro-batch; `saved` as Vit::forward takes it.
  [[nodiscard]] VitOutput student_forward(const MicroBatch& micro, const TokenRows& rows,
                                          const DropPathPlan& plan, std::shared_ptr<VitSaved>* saved);
  /// A pass whose activations are kept, and the gradients of its tokens taken back through it.
  void student_backward(const MicroBatch& micro, const TokenRows& rows, const VitOutput& output,
                        const BatchTokens& gradient);
  /// Of the rank's whole batch.
  struct StepTokens {
    BatchTokens student, teacher, gradient;
  };
  /// All micro-batches at once. Without `backward` only the heads learn.
  [[nodiscard]] TensorView whole_step(const StepBatch& batch, const DropPathDraw& drop_path,
                                      const StepContext& step, const StepTokens& tokens, bool backward);
  /// One after another: once for the tokens, then again, same draws, with gradients.
  [[nodiscard]] TensorView split_step(const StepBatch& batch, const DropPathDraw& drop_path,
                                      const StepContext& step, const StepTokens& tokens, bool backward);
  [[nodiscard]] TensorView run_objective(const StepContext& step, const StepTokens& tokens);
  /// Gradient norms, clip factors and whether all is finite, from the reduced gradients.
  void settle_update();
  /// The one read-back of a step; the matrix on the host.
  [[nodiscard]] TensorView enqueue_read_back(TensorView matrix);
  [[nodiscard]] StepResult read_back(TensorView host_matrix);
  void take_device_times();

  [[nodiscard]] int64_t local_crops() const {
    return objective_->needs().local_crops ? config_.local_crops : 0;
  }

  TrainingConfig config_;
  Context& c_;
  const Communicator& comm_;
  std::unique_ptr<Objective> objective_;
  ParameterLayout layout_;
  ParameterState state_;
  Vit student_, teacher_;
  Optimizer optimizer_;
  /// f64: squared gradient norms by module, then the objective's. Those that are summed over ranks come
  /// first, and decide on the update.
  Tensor scalars_;
  Tensor matrix_;   ///< f32: what the objective reports
  Tensor factors_;  ///< f32 [modules]: of the gradients, for clipping and against the loss scale
  Tensor finite_;   ///< f32 [1]: whether the update is applied
  Tensor host_scalars_, host_matrix_;
  LossScale loss_scale_;
  std::shared_ptr<VitSaved> saved_;  ///< of the last pass; the next one reuses it
  MaskedPatches masked_;             ///< of this step
  BatchSplit split_;                 ///< of this step's images
  int64_t masked_total_ = 0;         ///< masked patches of all ranks
  std::map<std::string, double> seconds_;
  std::optional<double> device_seconds_;
};

}  // namespace dino
