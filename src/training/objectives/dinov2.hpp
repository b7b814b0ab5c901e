// SPDX-License-Identifier: Apache-2.0
#pragma once
// DINO on class tokens, iBOT on masked patches, KoLeo (arXiv 2304.07193, section 4; reference SSLMetaArch).

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "training/objectives/objective.hpp"
#include "training/targets.hpp"

namespace dino {

/// Appends the units of its heads.
void declare_heads(ParameterLayout& layout, const Dinov2Config& config);

class Dinov2 final : public Objective {
 public:
  Dinov2(const TrainingConfig& config, const Context& c);
  void declare(ParameterLayout& layout) const override;
  [[nodiscard]] std::vector<std::string> modules() const override { return {"dino_head", "ibot_head"}; }
  [[nodiscard]] Needs needs() const override { return {true, local_crops_ > 0, true}; }
  [[nodiscard]] Scalars scalars() const override;
  [[nodiscard]] TensorView batch(const StepContext& step, const BatchTokens& student,
                                 const BatchTokens& teacher, const BatchTokens& gradient) override;
  void report(std::span<const double> scalars, ConstTensorView matrix, int64_t images,
              StepResult& result) const override;
  [[nodiscard]] std::map<std::string, std::vector<double>> state(Stream& stream) const override;
  void set_state(Stream& stream, const std::map<std::string, std::vector<double>>& state) override;
  void start() override;

 private:
  /// What the teacher teaches the B images and the M masked patches of this rank.
  struct Targets {
    TensorView cls;    ///< [2B, K]: view 1 of all images, then view 2
    TensorView local;  ///< [B, K]: the sum over both views, sums to 2; empty without local crops
    std::optional<TeacherTargets> patches;  ///< [masked of M, K of the iBOT head]
  };
  /// The rows of one head's cross-entropies: consecutive ones of the batch's tokens.
  struct HeadRows {
    TensorView tokens, gradient;
    std::vector<TargetRows> segments;  ///< their targets
    std::vector<float> weight;         ///< of each row in the objective, times the loss scale
  };
  [[nodiscard]] const Head& patch_head() const { return ibot_ ? *ibot_ : dino_; }
  [[nodiscard]] Targets targets(const StepContext& step, const BatchTokens& teacher);
  /// The teacher's logits of these tokens, of which the first `taught` are no filling.
  [[nodiscard]] TeacherTargets teacher_logits(const StepContext& step, const Head& head, TensorView tokens,
                                              int64_t taught, bool keep) const;
  /// Fills `loss` [rows] and rows.gradient (=), adds to the head's gradients and finishes them.
  void head_losses(const StepContext& step, const Head& head, const HeadRows& rows, TensorView loss) const;
  void cross_entropies(const StepContext& step, const BatchTokens& student, const BatchTokens& gradient,
                       const Targets& targets) const;
  /// KoLeo's term, and the features' health; returns the products that the effective rank follows from.
  [[nodiscard]] TensorView features(const StepContext& step, const BatchTokens& student,
                                    const BatchTokens& gradient) const;

  Dinov2Config config_;
  int64_t width_, local_crops_;
  double kept_targets_;  ///< bytes of the patches' targets that are kept whole at most
  Memory& memory_;
  Head dino_;
  std::optional<Head> ibot_;  ///< empty when the DINO head takes the patches too
  SoftmaxCentre dino_centre_, ibot_centre_;
};

}  // namespace dino
