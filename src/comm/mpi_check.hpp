// SPDX-License-Identifier: Apache-2.0
#pragma once
// Inside comm/ only: checked return codes and the size limit of one message.

#include <mpi.h>

#include <algorithm>
#include <cstdint>

#include "base/span.hpp"
#include "base/timing.hpp"
#include "comm/communicator.hpp"
#include "comm/watchdog.hpp"

namespace dino::mpi {

/// Throws MpiError with MPI's text for `code` unless it is MPI_SUCCESS.
void check(int code, const char* operation);

/// Around a blocking collective of a Communicator: watched, and counted in control_use().
class ControlScope {
 public:
  ControlScope(const char* operation, int64_t bytes)
      : watched_(operation), span_(operation, "control", bytes) {
    count(1, bytes, 0);
  }
  ~ControlScope() { count(0, 0, watch_.seconds()); }
  ControlScope(const ControlScope&) = delete;
  ControlScope& operator=(const ControlScope&) = delete;

 private:
  static void count(int64_t calls, int64_t bytes, double seconds);
  WatchdogScope watched_;
  Span span_;
  Stopwatch watch_;
};

/// No MPI call moves more bytes than this to or from one rank: MPI-3 counts are `int`.
[[nodiscard]] int64_t message_bytes();

/// A sum or a gather of Communicator's and of collectives goes through buffers of this size.
inline constexpr int64_t kSumBufferBytes = int64_t{1} << 26;
/// Up to this size (all ranks together) a sum gathers everything: one call instead of two.
inline constexpr int64_t kSmallSumBytes = int64_t{1} << 16;

[[nodiscard]] MPI_Op operation_of(ReduceOp op);

/// Calls transfer(begin, count) over [0, n) in pieces of at most message_bytes().
template <class F>
void in_chunks(int64_t n, int64_t element_bytes, F transfer) {
  const int64_t step = std::max<int64_t>(1, message_bytes() / element_bytes);
  for (int64_t begin = 0; begin < n; begin += step)
    transfer(begin, static_cast<int>(std::min(step, n - begin)));
}

}  // namespace dino::mpi
