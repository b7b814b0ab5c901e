// SPDX-License-Identifier: Apache-2.0
#include "comm/keeping_pace.hpp"

#include <chrono>
#include <thread>

#include "comm/mpi_check.hpp"
#include "comm/watchdog.hpp"

namespace dino {

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
  counts_->mine = {here, ending};
  mpi::check(
      MPI_Iallreduce(counts_->mine.data(), counts_->all.data(), 2, MPI_INT64_T, MPI_SUM, line_, &request_),
      "keeping pace");
}

/// True when no reduction is under way.
bool KeepingPace::test() {
  int done = 0;
  mpi::check(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), "keeping pace");
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

bool KeepingPace::finish(bool stopped, const std::string& failure, int exit_code) {
  if (comm_.size() > 1) {
    const WatchdogScope scope("waiting for the other ranks' work");
    const int64_t ending = stopped || !failure.empty() ? 1 : 0;
    while (true) {
      if (!test()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        continue;
      }
      WatchdogScope::progress();
      if (counts_->all[0] == comm_.size()) break;
      post(1, ending);
    }
    mpi::check(MPI_Comm_free(&line_), "comm_free");
  }
  comm_.agree_or_throw(failure, exit_code);
  return comm_.any(stopped);
}

}  // namespace dino
