// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a training minimises: a function of the tokens of the global batch, however the engine has split it
// over ranks and micro-batches.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/timing.hpp"
#include "ops/context.hpp"
#include "training/config.hpp"
#include "training/losses.hpp"
#include "training/step.hpp"
#include "training/tokens.hpp"

namespace dino {

/// What an objective reads; nothing else is computed.
struct Needs {
  bool teacher = true;         ///< the tokens of the EMA teacher, which sees the global crops unmasked
  bool local_crops = true;     ///< class tokens of the student's local crops
  bool masked_patches = true;  ///< of student and teacher
};

/// Where and with what an objective computes.
struct StepContext {
  const Context& c;
  const UnitWeights& student;
  const UnitWeights& teacher;
  UnitGradients& gradients;
  const BatchSplit& split;      ///< the images of all ranks
  const MaskedPatches& masked;  ///< of this rank's
  int64_t masked_total = 0;     ///< of all ranks
  double teacher_temperature = 0;
  double loss_scale = 1;  ///< of all gradients; losses are without it
  TensorView scalars;     ///< f64 [scalars().count], zero
  /// The images of all ranks: what is divided by it sums over ranks to a mean over the global batch.
  [[nodiscard]] double total_images() const { return static_cast<double>(split.total()); }
  [[nodiscard]] TensorView scalar(int64_t index) const { return scalars.rows(index, 1); }
};

class Objective {
 public:
  virtual ~Objective() = default;
  /// Appends the units of its heads.
  virtual void declare(ParameterLayout& layout) const = 0;
  /// The modules of these, in the order of gradient norms, whether or not each has a unit.
  [[nodiscard]] virtual std::vector<std::string> modules() const = 0;
  [[nodiscard]] virtual Needs needs() const = 0;

  /// What a step reports of itself, f64 in one tensor that is read back once. The first `summed` are sums
  /// over ranks, which the engine takes; a step of which one is not finite is not applied.
  struct Scalars {
    int64_t summed = 0, count = 0;
  };
  [[nodiscard]] virtual Scalars scalars() const = 0;
  /// Once a step, collective. Fills `gradient` (=) with the gradient of the student's tokens, adds those of
  /// its heads to the step's gradients (both times the loss scale) and finishes their units, and adds to the
  /// scalars. Returns a matrix that report() is given with the scalars: f32, at most kRankRows squared.
  [[nodiscard]] virtual TensorView batch(const StepContext& step, const BatchTokens& student,
                                         const BatchTokens& teacher, const BatchTokens& gradient) = 0;
  virtual void report(std::span<const double> scalars, ConstTensorView matrix, int64_t images,
                      StepResult& result) const = 0;

  /// What a checkpoint keeps of it: centres, running statistics.
  [[nodiscard]] virtual std::map<std::string, std::vector<double>> state(Stream& stream) const = 0;
  /// DataError when something is missing or of another length.
  virtual void set_state(Stream& stream, const std::map<std::string, std::vector<double>>& state) = 0;
  /// As a new run begins.
  virtual void start() = 0;
};

/// The objective of the configuration, on the context's device.
[[nodiscard]] std::unique_ptr<Objective> make_objective(const TrainingConfig& config, const Context& c);

}  // namespace dino
