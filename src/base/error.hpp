// SPDX-License-Identifier: Apache-2.0
#pragma once
// Errors and exit codes. Every exception that leaves a command is one of these; `run_program`
// (comm/program.hpp) maps it to the exit code. The codes are a contract with users' scripts (sysexits.h where
// it has a fitting one).

#include <stdexcept>
#include <string>

namespace dino {

enum class ExitCode : int {
  done = 0,
  differ = 1,          ///< the two sides differ (`diff`, `compare` only)
  usage = 64,          ///< bad command line or recipe
  bad_data = 65,       ///< an input is not what it claims to be
  missing_input = 66,  ///< an input does not exist or cannot be read
  internal = 70,       ///< a defect of dinohpc
  io = 74,             ///< reading or writing failed
  stopped = 75,        ///< stopped early by request; start again to go on
  diverged = 76,       ///< training diverged
  upstream = 77,       ///< an upstream stage is not complete
};

/// Base of all errors that a user can see. `what()` is one line: "<what>: <which file or option>: <why>;
/// <what to do>".
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

#define DINO_DEFINE_ERROR(Name, exit_code)                                             \
  class Name : public Error {                                                          \
   public:                                                                             \
    explicit Name(const std::string& message) : Error(ExitCode::exit_code, message) {} \
  }
DINO_DEFINE_ERROR(UsageError, usage);
DINO_DEFINE_ERROR(DataError, bad_data);
DINO_DEFINE_ERROR(MissingInputError, missing_input);
DINO_DEFINE_ERROR(InternalError, internal);
DINO_DEFINE_ERROR(MpiError, internal);
DINO_DEFINE_ERROR(IoError, io);
DINO_DEFINE_ERROR(DivergedError, diverged);
DINO_DEFINE_ERROR(UpstreamError, upstream);
#undef DINO_DEFINE_ERROR

/// Throws IoError (or MissingInputError for ENOENT, EACCES) with errno's text: "<what>: <path>: <strerror>".
[[noreturn]] void throw_errno(const std::string& what, const std::string& path);

/// The class of errors that has this exit code.
[[noreturn]] void throw_as(int exit_code, const std::string& message);

/// For programmers' errors only: a broken precondition that no input can cause.
[[noreturn]] void check_failed(const char* expression, const char* file, int line,
                               const std::string& message);

}  // namespace dino

#define DINO_CHECK(condition, message)                                               \
  do {                                                                               \
    if (!(condition)) ::dino::check_failed(#condition, __FILE__, __LINE__, message); \
  } while (false)
