// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a run writes for people and reports: RUN/metrics.jsonl, RUN/config.ini, RUN/run.json. Used on rank 0
// only.

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "comm/program.hpp"
#include "datasets/record_list.hpp"
#include "forecast.hpp"
#include "online_knn.hpp"
#include "outliers.hpp"
#include "replaced_samples.hpp"
#include "storage/files.hpp"
#include "train_config.hpp"

namespace dino::pretrain {

struct StepLine {
  int64_t step = 0, samples = 0;
  StepSchedule schedule;
  StepResult result;
  double step_seconds = 0, data_wait_seconds = 0;  ///< the former contains the latter
  double compute_seconds = 0, communication_seconds = 0;
  double checkpoint_blocked_seconds = 0;  ///< since the line before
  std::map<std::string, double> phases;
  double images_per_second = 0, achieved_gflops = 0;
  double mfu = 0;  ///< achieved_gflops as a share of the rate of large products
  std::map<std::string, OperationUse> collectives;  ///< since the line before
  Replaced replaced;                                ///< in the run so far
  std::string batch_crc;  ///< of samples, crops and masks: the same for any number of ranks
};

/// The fields of metrics.jsonl are a contract with users' scripts.
class RunLog {
 public:
  /// Opens RUN/metrics.jsonl for appending. Lines of steps after `step` were written by a process that died
  /// after its last checkpoint: they are removed, since those steps are run again.
  RunLog(const std::string& run, int64_t step);
  void step(const StepLine& line);
  struct Beginning {
    int64_t records = 0, parameters = 0;
    double gemm_gflops = 0;              ///< of all ranks
    const Forecast* forecast = nullptr;  ///< what was expected of the run, or null
  };
  void start(const TrainConfig& config, const CommandContext& context, const Beginning& beginning);
  void resume(int64_t step, const std::string& checkpoint, int ranks, double gemm_gflops);
  /// `seconds` from the copy to the commit, of which the steps waited for `blocked_seconds`.
  void checkpoint(int64_t step, const std::string& folder, double seconds, double blocked_seconds);
  void checkpoint_failed(int64_t step, const std::string& why);
  void skip(int64_t step, const StepResult& result);
  void outlier(int64_t step, const Outlier& outlier, bool skipped);
  void capture(int64_t step, const std::string& file, double seconds);
  /// A step that was left out because its gradients overflowed; `scale` is the next one's.
  void loss_scale(int64_t step, double scale);
  void rollback(int64_t step, const std::string& checkpoint);
  void knn(int64_t step, const OnlineKnn::Score& score, int64_t k, bool is_best);
  /// A run that is done gets a line on its health (training/collapse.hpp).
  void stop(int64_t step, const std::string& reason);
  /// As the last line that was kept says.
  [[nodiscard]] const Replaced& replaced_before() const { return replaced_before_; }

 private:
  /// A line that cannot be written (a full disk) does not end the training: it is counted, said once, and
  /// told by an event as soon as there is space.
  void append(const std::string& line);
  std::string path_;
  Replaced replaced_before_;  ///< set while writer_ is made
  LineWriter writer_;
  int64_t lost_ = 0;
};

/// Compares the settings in force with RUN/config.ini (absent: a new run, and the file is written). Settings
/// that shape the result must be equal: UsageError names the first that differs. `ini` is
/// OptionTable::to_ini().
void check_or_write_config(const std::string& run, const std::string& ini);
/// A run may go on from another's checkpoint with settings of its own; what differs is said. `before` is the
/// checkpoint's INI.
void say_other_settings(const std::string& checkpoint, const std::string& before, const std::string& ini);
/// The list of the run's images, which all ranks map.
[[nodiscard]] std::string list_path(const std::string& run);
/// RUN/run.json remembers which images the run began with: DataError when `list` holds others. Where they
/// lie does not matter.
void check_data(const std::string& run, const RecordList& list);
void write_run_json(const std::string& run, const CommandContext& context, const RecordList& list,
                    const TrainingConfig& training, Device::Kind device, int64_t start_step);
/// For a run without any valid checkpoint: DataError unless it never had one. To begin anew in silence would
/// throw away its history.
void refuse_lost_checkpoints(const std::string& run);

}  // namespace dino::pretrain
