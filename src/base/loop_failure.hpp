// SPDX-License-Identifier: Apache-2.0
#pragma once
// An exception must not leave the body of a parallel loop.

#include <atomic>
#include <exception>
#include <mutex>

namespace dino {

/// Keeps the first exception of a loop's bodies; those that have not begun are then left out.
class LoopFailure {
 public:
  template <class Body>
  void guard(const Body& body) noexcept {
    if (failed_) return;
    try {
      body();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      failed_ = true;
    }
  }
  /// After the loop.
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace dino
