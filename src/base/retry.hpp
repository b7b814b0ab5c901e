// SPDX-License-Identifier: Apache-2.0
#pragma once
// A fault of a file system is not one of the file: it is tried again, with growing pauses, for
// --retry-seconds; then it is an IoError (exit 74), which nothing may take for a verdict on the file.

#include <chrono>
#include <string>

#include "base/error.hpp"

namespace dino {

/// --retry-seconds; 0 = no second try. Called once by run_program, and by tests.
void set_retry_seconds(double seconds);
[[nodiscard]] double retry_seconds();

/// EIO, ESTALE, ETIMEDOUT...: the same call may succeed later.
[[nodiscard]] bool is_passing_fault(int error);
/// ENOENT, EACCES...: of a file that was there when it was listed, a sign of a lost mount.
[[nodiscard]] bool is_lost_file(int error);

/// The file that some thread of this process waits for between two tries; empty = none. For the watchdog.
[[nodiscard]] std::string retrying_now();

/// One file's tries. Inside of another one of the same thread it does nothing: the outer one tries again.
class Retry {
 public:
  explicit Retry(const std::string& path);
  ~Retry();
  Retry(const Retry&) = delete;
  Retry& operator=(const Retry&) = delete;
  /// Call it in the handler of the try's exception. Pauses and returns, or throws: the IoError when the time
  /// is over, Error with exit code 75 when a stop was asked for.
  void pause_or_give_up(const IoError& error);

 private:
  const std::string& path_;
  std::chrono::steady_clock::time_point begin_;
  double pause_ = 0;  ///< the last one; 0 = none yet
};

/// What `body` returns, as soon as it does not throw an IoError. `path` is what it reads.
template <class Body>
auto retrying(const std::string& path, const Body& body) {
  Retry retry(path);
  while (true) {
    try {
      return body();
    } catch (const IoError& error) {
      retry.pause_or_give_up(error);
    }
  }
}

}  // namespace dino
