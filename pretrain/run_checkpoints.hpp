// SPDX-License-Identifier: Apache-2.0
#pragma once
// The checkpoints of a run as its steps see them: written beside them (training/checkpoint_writer.hpp),
// committed between two of them, logged, and left out where the disk does not take them. begin(), finish()
// and save() are collective.

#include <functional>
#include <string>

#include "base/timing.hpp"
#include "run_log.hpp"
#include "train_config.hpp"
#include "training/checkpoint_writer.hpp"

namespace dino::pretrain {

class RunCheckpoints {
 public:
  /// `saved`: the step that the run goes on from, -1 = none. `log`: rank 0's, null elsewhere. `comm` and
  /// `log` must outlive it.
  RunCheckpoints(std::string run, const TrainConfig& config, const CheckpointStores& stores,
                 const Communicator& comm, RunLog* log, int64_t saved);

  /// Begins the checkpoint of content.integers["step"], after that before is finished. `best`:
  /// RUN/checkpoints/best leads to it once it is there. One that cannot be written (a full disk) is left out,
  /// said, and tried again at the next interval.
  void begin(const CheckpointContent& content, bool best);
  /// This rank's part of the pending one is not written. For a vote that the ranks hold anyway.
  [[nodiscard]] bool writing() const { return !writer_.written(); }
  /// Finishes the pending one, if there is one; waits for it where it is not written.
  void finish();
  /// The checkpoint of content.integers["step"] is there when this returns, or left out as above; with
  /// `must`, IoError when it cannot be written.
  void save(const CheckpointContent& content, bool best, bool must);
  /// That the steps have waited for checkpoints since the last call.
  [[nodiscard]] double take_blocked_seconds();

 private:
  void start(const CheckpointContent& content, bool best);
  void commit();
  /// Counts the time; an error of the disk leaves the checkpoint of `step` out unless `must`.
  void attempt(int64_t step, bool must, const std::function<void()>& body);

  std::string run_;
  CheckpointWriter writer_;
  const Communicator& comm_;
  RunLog* log_;
  int64_t saved_;
  bool best_ = false;                     ///< of the pending one
  Stopwatch since_;                       ///< it has begun
  double blocked_ = 0, all_blocked_ = 0;  ///< by the pending one; by any since take_blocked_seconds()
  bool said_waiting_ = false;
};

}  // namespace dino::pretrain
