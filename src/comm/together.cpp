// SPDX-License-Identifier: Apache-2.0
#include "comm/together.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <span>

#include "base/error.hpp"
#include "base/signals.hpp"
#include "comm/keeping_pace.hpp"

namespace dino {

RankFailure failure_of(const std::function<void()>& body) {
  try {
    body();
    return {};
  } catch (const Error& error) {
    return {error.what(), static_cast<int>(error.code())};
  }
}

void settle(const Communicator& comm, const RankFailure& failure) {
  int64_t lowest = failure.message.empty() ? comm.size() : comm.rank();
  comm.all_reduce(std::span(&lowest, 1), ReduceOp::min);
  if (lowest == comm.size()) return;
  std::string message = failure.message;
  int64_t code = failure.code;
  comm.broadcast(message, static_cast<int>(lowest));
  comm.broadcast_span(std::span(&code, 1), static_cast<int>(lowest));
  // Where a disk or a node may be to blame, people need to know which. Wrong data are wrong everywhere.
  const bool of_the_node =
      code == static_cast<int64_t>(ExitCode::io) || code == static_cast<int64_t>(ExitCode::internal);
  if (comm.size() > 1 && of_the_node) message += fmt::format(" [rank {}]", lowest);
  throw_as(static_cast<int>(code), message);
}

void together(const Communicator& comm, const std::function<void()>& body) {
  settle(comm, failure_of(body));
}

void on_root(const Communicator& comm, const std::function<void()>& body) {
  KeepingPace pace(comm);
  if (pace.finish(false, comm.root() ? failure_of(body) : RankFailure{})) throw_stopped();
}

}  // namespace dino
