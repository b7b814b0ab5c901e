// SPDX-License-Identifier: Apache-2.0
#pragma once
// The training loop: data -> step -> update -> metrics, checkpoints, stops. All control decisions are
// collective.

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "base/progress.hpp"
#include "base/timing.hpp"
#include "begin_from_weights.hpp"
#include "capture.hpp"
#include "comm/program.hpp"
#include "data_loader.hpp"
#include "forecast.hpp"
#include "online_knn.hpp"
#include "outliers.hpp"
#include "replaced_samples.hpp"
#include "run_checkpoints.hpp"
#include "run_log.hpp"
#include "step_crops.hpp"
#include "step_trace.hpp"
#include "storage/files.hpp"
#include "train_config.hpp"
#include "training/checkpoint.hpp"

namespace dino::pretrain {

class Trainer {
 public:
  /// What train has settled before.
  struct Start {
    RecordList list;                   ///< of rank 0; empty on the others
    std::optional<Forecast> forecast;  ///< empty where a run goes on
    Beginning beginning;
  };
  /// Every setting is chosen and completed.
  Trainer(CommandContext& context, TrainConfig config, Start start);
  /// done, or stopped (75) after a checkpoint; throws DivergedError after repeated non-finite steps.
  ExitCode run();

 private:
  /// Of rank 0.
  void begin_log();
  /// Steps until the last, or until a stop.
  [[nodiscard]] ExitCode train(DataLoader& loader);
  void say_done() const;
  void restore();
  void load(const std::string& folder);
  [[nodiscard]] CheckpointContent content();
  /// This step's checkpoint is there when it returns; where it cannot be written it is left out, or with
  /// `must` an IoError.
  void save(bool must);
  /// Waits for the next step's crops on all ranks; false when a stop ended the wait. Files that one rank
  /// cannot read end the training on all of them, after a checkpoint; so do too many broken images, without
  /// one.
  [[nodiscard]] bool data_ready(DataLoader& loader);
  [[nodiscard]] ExitCode stopped(Progress& progress);
  /// One optimizer step; false when it was skipped for non-finite values.
  bool train_step(DataLoader& loader);
  /// Completes the line of a step that was applied, and logs it where its turn is.
  void account(StepLine& line, const CropSet& crops, const BatchMasks& masks);
  /// Logs and captures a step that is not finite, or an outlier, before anything of it is applied; whether it
  /// is to be left out.
  [[nodiscard]] bool is_left_out(const StepLine& line, const CropSet& crops, const BatchMasks& masks);
  void capture(const std::string& kind, const StepLine& line, const CropSet& crops, const BatchMasks& masks);
  void on_skip(const StepResult& result);
  /// Of the Collective's operations, and of votes and texts (control), since the last call.
  [[nodiscard]] std::map<std::string, OperationUse> collectives_since();
  /// Ends the trace when all its steps are done; `now`: whatever is left of them.
  void write_trace(bool now);
  /// Sets is_best_.
  void evaluate_knn();
  /// The result and the note of the live line.
  void show(Progress& progress);
  [[nodiscard]] bool should_stop() const;
  [[nodiscard]] std::array<int64_t, 2> end_of_step_votes() const;

  CommandContext& context_;
  TrainConfig config_;
  Beginning beginning_;
  Communicator& comm_;
  RecordList list_;
  std::optional<Forecast> forecast_;
  Schedules schedules_;
  Workplace place_;
  StepCrops crops_;
  Engine engine_;
  std::unique_ptr<FolderLock> lock_;
  std::unique_ptr<RunLog> log_;  ///< rank 0 only
  std::unique_ptr<RunCheckpoints> checkpoints_;
  std::unique_ptr<OnlineKnn> knn_;
  std::unique_ptr<Vit> knn_vit_;
  int64_t step_ = 0;                                 ///< steps finished
  int64_t updates_ = 0;                              ///< optimizer updates (skipped steps do not count)
  double waited_seconds_ = 0, stepped_seconds_ = 0;  ///< for data; of all steps of this process
  int64_t first_step_ = 0;                           ///< where this process began
  int64_t skips_ = 0, rollbacks_ = 0;
  int64_t restored_ = -1;      ///< step of the checkpoint that this process goes on from
  double best_accuracy_ = -1;  ///< of the online k-NN by class tokens, after the first step
  bool is_best_ = false;       ///< this step's is it
  double flops_per_image_;
  double gemm_gflops_ = 0;                           ///< of large products on all ranks
  std::map<std::string, OperationUse> collectives_;  ///< up to the last line of the log
  Captures captures_;
  OutlierDetector outliers_;
  std::unique_ptr<StepTrace> trace_;
  ReplacedSamples replaced_;
  Replaced replaced_before_;  ///< by earlier starts of the run
  double loss_ = 0;           ///< of the last step
  Stopwatch watch_;
};

}  // namespace dino::pretrain
