// SPDX-License-Identifier: Apache-2.0
#include "comm/failure.hpp"

#include <array>
#include <chrono>
#include <functional>
#include <thread>

#include "base/error.hpp"
#include "comm/mpi_check.hpp"

namespace dino {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(1000);
/// Ranks that are asked to stop come to their points of stopping at their own pace.
constexpr auto kStopPatience = std::chrono::milliseconds(3000);

MPI_Comm vote_comm = MPI_COMM_NULL;

/// What one rank says of its failure.
using Ballot = std::array<int64_t, 2>;

}  // namespace

void open_failure_vote(const Communicator& world) {
  if (world.size() == 1) return;
  mpi::check(MPI_Comm_dup(world.handle(), &vote_comm), "comm_dup");
  mpi::check(MPI_Comm_set_errhandler(vote_comm, MPI_ERRORS_RETURN), "set_errhandler");
}

void close_failure_vote() {
  if (vote_comm != MPI_COMM_NULL) MPI_Comm_free(&vote_comm);
}

FailureVote vote_on_failure(int code, const std::string& message) {
  FailureVote vote;
  vote.code = code;
  if (vote_comm == MPI_COMM_NULL) return vote;
  int ranks = 1;
  MPI_Comm_size(vote_comm, &ranks);
  // Static: when the vote does not complete, MPI may still write here until the job is gone.
  static Ballot mine;
  static std::vector<Ballot> all;
  mine = {code, static_cast<int64_t>(std::hash<std::string>{}(message))};
  all.resize(static_cast<size_t>(ranks));
  MPI_Request request = MPI_REQUEST_NULL;
  if (MPI_Iallgather(mine.data(), 2, MPI_INT64_T, all.data(), 2, MPI_INT64_T, vote_comm, &request) !=
      MPI_SUCCESS)
    return vote;
  const auto deadline = std::chrono::steady_clock::now() +
                        (code == static_cast<int>(ExitCode::stopped) ? kStopPatience : kPatience);
  int done = 0;
  while (done == 0 && std::chrono::steady_clock::now() < deadline) {
    if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return vote;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (done == 0) return vote;
  vote.all_failed = true;
  vote.same = true;
  for (const Ballot& ballot : all) vote.same = vote.same && ballot == all.front();
  vote.code = static_cast<int>(all.front()[0]);
  return vote;
}

}  // namespace dino
