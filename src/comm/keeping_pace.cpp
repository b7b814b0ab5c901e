// SPDX-License-Identifier: Apache-2.0
#include "comm/keeping_pace.hpp"

#include <algorithm>
#include <thread>

#include "base/error.hpp"
#include "comm/mpi_check.hpp"
#include "comm/watchdog.hpp"

namespace dino {
namespace {

/// still_working() may be called after every microsecond of work.
constexpr auto kTellEvery = std::chrono::milliseconds(20);

}  // namespace

KeepingPace::KeepingPace(const Communicator& comm) : comm_(comm) {
  if (comm_.size() == 1) return;
  const WatchdogScope scope("comm_dup");
  mpi::check(MPI_Comm_dup(comm_.handle(), &line_), "comm_dup");
  mpi::check(MPI_Comm_set_errhandler(line_, MPI_ERRORS_RETURN), "set_errhandler");
}

KeepingPace::~KeepingPace() {
  // On the way out of an exception MPI may still write there until the job is gone.
  if (request_ != MPI_REQUEST_NULL) static_cast<void>(counts_.release());
}

void KeepingPace::post(int64_t here, int64_t ending) {
  counts_->mine = {here, ending, done_};
  mpi::check(
      MPI_Iallreduce(counts_->mine.data(), counts_->all.data(), 3, MPI_INT64_T, MPI_SUM, line_, &request_),
      "keeping pace");
}

/// True when no reduction is under way.
bool KeepingPace::test() {
  int done = 0;
  mpi::check(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), "keeping pace");
  // What is posted is what a completed reduction held of this rank.
  if (done != 0) elsewhere_ = counts_->all[2] - counts_->mine[2];
  return done != 0;
}

bool KeepingPace::step(bool stop) {
  if (comm_.size() == 1) return !stop;
  WatchdogScope::progress();
  // Only what a completed reduction says counts, this rank's own wish included: all ranks then take the same
  // number of reductions.
  if (test()) {
    if (counts_->all[1] > 0) return false;
    post(0, stop ? 1 : 0);
  }
  return !stop;
}

void KeepingPace::working() {
  if (comm_.size() == 1 || line_ == MPI_COMM_NULL) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - told_ < kTellEvery) return;
  told_ = now;
  WatchdogScope::progress();
  // A wish to end that has come in stays in `all` for the next step().
  if (counts_->all[1] == 0 && test() && counts_->all[1] == 0) post(0, 0);
}

void KeepingPace::meet(bool ending) {
  if (comm_.size() == 1) return;
  const WatchdogScope scope("waiting for the other ranks' work");
  auto pause = std::chrono::microseconds(20);
  while (true) {
    if (!test()) {
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, std::chrono::microseconds(1000));
      continue;
    }
    WatchdogScope::progress();
    if (counts_->all[0] == comm_.size()) break;
    post(1, ending ? 1 : 0);
  }
  mpi::check(MPI_Comm_free(&line_), "comm_free");
}

bool KeepingPace::finish(bool stopped, const RankFailure& failure) {
  // Asked to stop in the middle of a unit, while a file was tried again.
  stopped = stopped || failure.code == static_cast<int>(ExitCode::stopped);
  meet(stopped || !failure.message.empty());
  settle(comm_, failure.code == static_cast<int>(ExitCode::stopped) ? RankFailure{} : failure);
  return comm_.any(stopped);
}

}  // namespace dino
