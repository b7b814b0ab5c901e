// SPDX-License-Identifier: Apache-2.0
#pragma once
// What communication has cost this rank.

#include <cstdint>

namespace dino {

/// Of the operations of one name so far.
struct OperationUse {
  int64_t count = 0;
  int64_t bytes = 0;  ///< of the tensors and values that they were given here, not of what a network moved
  double wait_seconds = 0;
  void operator+=(const OperationUse& other) {
    count += other.count;
    bytes += other.bytes;
    wait_seconds += other.wait_seconds;
  }
  [[nodiscard]] OperationUse since(const OperationUse& before) const {
    return {count - before.count, bytes - before.bytes, wait_seconds - before.wait_seconds};
  }
};

}  // namespace dino
