// SPDX-License-Identifier: Apache-2.0
#pragma once
// Lets ranks work through uneven amounts of work without a collective for hours, and still notice at once
// when another fails or is asked to stop, and not take a slow rank for a stalled one.

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>

#include "base/working.hpp"
#include "comm/communicator.hpp"
#include "comm/together.hpp"

namespace dino {

/// Between two units of work every rank passes `step`; at the end, or when it fails, `finish`. Underneath,
/// one small non-blocking reduction follows the other, and a new one completes only when every rank has
/// passed a unit since: as long as that goes on, the watchdog's clock of those who wait is set back. Within a
/// unit still_working() (base/working.hpp) counts as well.
class KeepingPace : public WorkListener {
 public:
  explicit KeepingPace(const Communicator& comm);
  ~KeepingPace() override;

  /// False when any rank has failed or was asked to stop: go to `finish`.
  [[nodiscard]] bool step(bool stop);
  /// Collective: waits until all ranks have come here, then settles their failures (comm/together.hpp); a
  /// failure that says "stopped" counts as `stopped`. Returns whether any rank stopped early.
  [[nodiscard]] bool finish(bool stopped, const RankFailure& failure = {});
  /// How much of its work this rank has done, in any unit; the reductions carry it along.
  void count(int64_t done) { done_ = done; }
  /// The same of all other ranks together, as far as it is known here; exact after `finish`.
  [[nodiscard]] int64_t done_elsewhere() const { return elsewhere_; }
  /// Collective: the waiting alone. `ending`: this rank wants the others to come soon.
  void meet(bool ending);

  void working() override;

 private:
  void post(int64_t here, int64_t ending);
  [[nodiscard]] bool test();

  const Communicator& comm_;
  MPI_Comm line_ = MPI_COMM_NULL;  ///< its own, so that nothing else can meet these reductions
  MPI_Request request_ = MPI_REQUEST_NULL;
  struct Counts {
    std::array<int64_t, 3> mine{}, all{};  ///< ranks in `finish`; ranks that want an early end; work done
  };
  std::unique_ptr<Counts> counts_ = std::make_unique<Counts>();
  int64_t done_ = 0, elsewhere_ = 0;
  std::chrono::steady_clock::time_point told_{};  ///< when working() last went into MPI
};

}  // namespace dino
