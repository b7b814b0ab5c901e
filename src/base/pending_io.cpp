// SPDX-License-Identifier: Apache-2.0
#include "base/pending_io.hpp"

#include <chrono>
#include <mutex>

#include "base/log.hpp"

namespace dino {

/// A list through the scopes themselves, oldest first: to enter and to leave costs a lock and four pointers.
struct PendingTable {
  std::mutex mutex;
  IoScope* first = nullptr;
  IoScope* last = nullptr;

  void add(IoScope* scope) {
    const std::lock_guard lock(mutex);
    scope->previous_ = last;
    (last == nullptr ? first : last->next_) = scope;
    last = scope;
  }
  void remove(const IoScope* scope) {
    const std::lock_guard lock(mutex);
    (scope->previous_ == nullptr ? first : scope->previous_->next_) = scope->next_;
    (scope->next_ == nullptr ? last : scope->next_->previous_) = scope->previous_;
  }
  PendingIo oldest(double now) {
    const std::lock_guard lock(mutex);
    if (first == nullptr) return {};
    return {first->action_, *first->path_, first->phase_, now - first->begin_};
  }
};

namespace {

/// Never destroyed: threads may still read while static objects go.
PendingTable& table() {
  static auto* instance = new PendingTable;
  return *instance;
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

IoScope::IoScope(const char* action, const std::string& path)
    : action_(action), phase_(log::thread_phase()), path_(&path), begin_(now_seconds()) {
  table().add(this);
}

IoScope::~IoScope() {
  table().remove(this);
}

PendingIo oldest_pending_io() {
  return table().oldest(now_seconds());
}

}  // namespace dino
