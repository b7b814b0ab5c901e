// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a process asks of its file systems at this moment. A read of a dead network mount blocks for ever and
// cannot be interrupted, so the watchdog (comm/watchdog.hpp) looks from outside and can name the file.

#include <string>

namespace dino {

/// Lives while one system call on a file may block. Any thread. `action` is a literal; `path` must outlive
/// the scope.
class IoScope {
 public:
  IoScope(const char* action, const std::string& path);
  ~IoScope();
  IoScope(const IoScope&) = delete;
  IoScope& operator=(const IoScope&) = delete;

 private:
  friend struct PendingTable;
  const char* action_;
  const char* phase_;
  const std::string* path_;
  double begin_;
  IoScope* previous_ = nullptr;
  IoScope* next_ = nullptr;
};

struct PendingIo {
  std::string action, path;     ///< "reading", "/data/x.tar"; empty = nothing is pending
  const char* phase = nullptr;  ///< that of the thread that waits (log::ThreadPhase); null: the process's
  double seconds = 0;
};
/// The call that has been waiting for the longest.
[[nodiscard]] PendingIo oldest_pending_io();

}  // namespace dino
