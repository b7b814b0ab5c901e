// SPDX-License-Identifier: Apache-2.0
#pragma once
// Log lines on stderr. Only rank 0 prints information; every rank prints warnings and errors, with its rank.

#include <string_view>

#include "base/span.hpp"

namespace dino::log {

/// Called once by run_program: the program's name and this process's rank.
void configure(std::string_view program, int rank, int ranks);
/// Information begins with the local time (ISO 8601) from now on: for logs that are read later. Warnings and
/// errors begin with the program's name all the same, so that they are found there.
void stamp_information(bool on);
void info(std::string_view line);
void warning(std::string_view line);
void error(std::string_view line);

/// The phase that this rank is in, for the watchdog and for errors/rank_N.txt. Nested: restores the outer
/// phase when destroyed. A span of its thread.
class Phase {
 public:
  explicit Phase(const char* name);
  ~Phase();
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

 private:
  Span span_;
  const char* outer_;
  int exceptions_;
};
[[nodiscard]] const char* current_phase();
/// What a thread beside the main one works at, while the main one goes on in a phase of its own: reports of a
/// file that the thread waits for tell of this (base/pending_io.hpp).
class ThreadPhase {
 public:
  explicit ThreadPhase(const char* name);
  ~ThreadPhase();
  ThreadPhase(const ThreadPhase&) = delete;
  ThreadPhase& operator=(const ThreadPhase&) = delete;

 private:
  const char* outer_;
};
/// Null where the calling thread has none.
[[nodiscard]] const char* thread_phase();

/// `changed` is called after every change of the phase, by the thread that changes it.
void watch_phases(void (*changed)());
/// For reports of a failure: the innermost phase that the exception in flight has left, or the current one.
[[nodiscard]] const char* failed_phase();

}  // namespace dino::log
