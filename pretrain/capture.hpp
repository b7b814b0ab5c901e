// SPDX-License-Identifier: Apache-2.0
#pragma once
// RUN/captures/step_N.h5: a step that went wrong, with all that dino-pretrain replay needs to run it again
// elsewhere: the crops and masks of all ranks, both networks as the step found them, the settings. The step
// has not been applied when it is written, so nothing is kept for it while all is well.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "data_loader.hpp"
#include "training/engine.hpp"
#include "training/masks.hpp"

namespace dino::pretrain {

inline constexpr int64_t kCaptureSchema = 1;

/// What a capture tells beside its arrays.
struct CaptureFacts {
  std::string kind;  ///< "not_finite" or "outlier"
  int64_t step = 0;  ///< as metrics.jsonl counts it: its images are those of batch number step - 1
  int64_t seed = 0, batch = 0;
  int ranks = 1;
  int64_t accumulate = 1;
  std::string strategy, precision, cpu;  ///< by name
  StepSchedule schedule;
  LossTerms losses;                ///< as the step had them
  std::vector<double> grad_norms;  ///< NaN where not finite
  std::string model_json, config_ini;
  std::map<std::string, std::vector<double>> objective_state;
};

/// This rank's part of the step, and what every rank knows of it.
struct CapturedBatch {
  const CropSet& crops;
  const BatchMasks& masks;                     ///< of the global batch
  std::function<std::string(int64_t)> key_of;  ///< of an image of the global batch
};

/// RUN/captures, of at most so many files.
class Captures {
 public:
  Captures(std::string run, int64_t most) : run_(std::move(run)), most_(most) {}
  /// Rank 0 writes while the others send their crops, and their parts of one unit after another: it holds no
  /// more than a piece at a time. A capture that cannot be written costs itself alone, which is said.
  /// Returns its path on rank 0; "" there when none was written, and elsewhere. Collective.
  std::string write(const CaptureFacts& facts, const CapturedBatch& batch, Engine& engine,
                    const Communicator& comm) const;

 private:
  std::string run_;
  int64_t most_;
};

/// A capture as replay reads it; views are laid out as in StepBatch, over the global batch.
struct Capture {
  CaptureFacts facts;
  Tensor global_crops, local_crops, masks;
  std::vector<std::string> keys;
  /// A unit's values (f32 [padded]) in "student" or "teacher".
  std::function<Tensor(const std::string& network, const std::string& unit)> parameters;
};
/// MissingInputError; DataError for a damaged file, or one of another schema.
[[nodiscard]] Capture read_capture(const std::string& path);

}  // namespace dino::pretrain
