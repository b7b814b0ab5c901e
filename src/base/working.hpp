// SPDX-License-Identifier: Apache-2.0
#pragma once
// Long work of one thread says that it is getting on, without knowing who waits for it.

namespace dino {

/// Between two pieces of work of any length, where one rank works and the others may be waiting for it. Costs
/// a look at a thread-local pointer.
void still_working();
/// The same, and stop_here() (base/signals.hpp): where giving up is not taken for a verdict on data.
void work_point();

/// Who wants to hear it from this thread (KeepingPace). The last one made is told; destroyed in reverse
/// order.
class WorkListener {
 public:
  WorkListener();
  virtual ~WorkListener();
  WorkListener(const WorkListener&) = delete;
  WorkListener& operator=(const WorkListener&) = delete;
  virtual void working() = 0;

 private:
  WorkListener* outer_;
};

}  // namespace dino
