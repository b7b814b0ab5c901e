// SPDX-License-Identifier: Apache-2.0
#include "run_checkpoints.hpp"

#include <fmt/format.h>

#include <utility>

#include "base/log.hpp"

namespace dino::pretrain {

RunCheckpoints::RunCheckpoints(std::string run, const TrainConfig& config, const CheckpointStores& stores,
                               const Communicator& comm, RunLog* log, int64_t saved)
    : run_(std::move(run)),
      writer_(run_, stores, comm, {config.keep, config.keep_every}),
      comm_(comm),
      log_(log),
      saved_(saved) {}

void RunCheckpoints::begin(const CheckpointContent& content, bool best) {
  const int64_t step = content.integers.at("step");
  if (saved_ == step) return;
  if (writer_.pending() && !std::exchange(said_waiting_, true))
    log::info(
        fmt::format("the checkpoint of step {} is due while that of step {} is being written: steps wait "
                    "for the disk; a larger --checkpoint-every saves the time",
                    step, writer_.step()));
  finish();
  attempt(step, false, [&] { start(content, best); });
}

void RunCheckpoints::finish() {
  if (writer_.pending()) attempt(writer_.step(), false, [&] { commit(); });
}

void RunCheckpoints::save(const CheckpointContent& content, bool best, bool must) {
  const int64_t step = content.integers.at("step");
  finish();
  if (saved_ == step) return;
  attempt(step, must, [&] {
    start(content, best);
    commit();
  });
}

double RunCheckpoints::take_blocked_seconds() {
  return std::exchange(all_blocked_, 0.0);
}

void RunCheckpoints::start(const CheckpointContent& content, bool best) {
  since_.restart();
  writer_.begin(content.integers.at("step"), content);
  best_ = best;
  blocked_ = since_.seconds();
}

void RunCheckpoints::commit() {
  const Stopwatch watch;
  const std::string folder = writer_.finish();
  saved_ = writer_.step();
  if (!comm_.root()) return;
  try {
    if (best_) mark_best_checkpoint(run_, folder);
  } catch (const IoError& error) {
    log::warning(fmt::format("the best checkpoint is {}, but: {}", folder, error.what()));
  }
  if (log_ != nullptr) log_->checkpoint(saved_, folder, since_.seconds(), blocked_ + watch.seconds());
}

void RunCheckpoints::attempt(int64_t step, bool must, const std::function<void()>& body) {
  const log::Phase phase("checkpoint");
  const Stopwatch watch;
  try {
    body();
  } catch (const Error& error) {
    const std::string last = saved_ < 0 ? "there is none" : fmt::format("the last one is of step {}", saved_);
    const bool of_disk = error.code() == ExitCode::io;
    if (must && of_disk)
      throw IoError(fmt::format("{}; without this checkpoint {}: make space or mend it, then start again",
                                error.what(), last));
    // A fault that was tried again until somebody asked for a stop is one of the disk too.
    if (must || (!of_disk && error.code() != ExitCode::stopped)) throw;
    if (log_ != nullptr) {
      log::warning(
          fmt::format("checkpoint of step {} left out, {}: {}; it is tried again at the next interval", step,
                      last, error.what()));
      log_->checkpoint_failed(step, error.what());
    }
  }
  all_blocked_ += watch.seconds();
}

}  // namespace dino::pretrain
