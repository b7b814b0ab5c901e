// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a failing rank leaves behind: <output>/errors/rank_N.txt.

#include <string>

namespace dino {

/// Where errors/rank_N.txt goes; empty (the default) = nowhere. Set once by run_program, from --output.
void set_error_folder(const std::string& output);
/// Writes the file, if an output folder is set. Never throws: it runs while dying. `phase` is that of the
/// rank, which may be another than this one when it can no longer speak for itself.
void write_error_file(int rank, const char* phase, const std::string& text) noexcept;
/// Removes what an earlier start of the same work left. Called by whoever holds the output folder's lock.
void clear_error_files() noexcept;

/// SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT: one line with rank and phase, the error file, and then whatever
/// would have happened without this (Open MPI's stack trace, a core dump). A SIGBUS at an address where a
/// file is mapped (base/file_mapping.hpp) names the file and ends with 74 instead.
void install_crash_handlers(const std::string& program, int rank, int ranks);

}  // namespace dino
