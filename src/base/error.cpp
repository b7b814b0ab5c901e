// SPDX-License-Identifier: Apache-2.0
#include "base/error.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace dino {

void throw_errno(const std::string& what, const std::string& path) {
  const int error = errno;
  const std::string message = fmt::format("{}: {}: {}", what, path, std::strerror(error));
  if (error == ENOENT || error == EACCES || error == ENOTDIR || error == ELOOP || error == ENAMETOOLONG)
    throw MissingInputError(message + "; check the path and its rights");
  throw IoError(message);
}

void throw_as(int exit_code, const std::string& message) {
  switch (static_cast<ExitCode>(exit_code)) {
    case ExitCode::usage:
      throw UsageError(message);
    case ExitCode::bad_data:
      throw DataError(message);
    case ExitCode::missing_input:
      throw MissingInputError(message);
    case ExitCode::io:
      throw IoError(message);
    case ExitCode::diverged:
      throw DivergedError(message);
    case ExitCode::upstream:
      throw UpstreamError(message);
    case ExitCode::internal:
      throw InternalError(message);
    default:
      throw Error(static_cast<ExitCode>(exit_code), message);
  }
}

void check_failed(const char* expression, const char* file, int line, const std::string& message) {
  throw InternalError(fmt::format("internal check failed: {} at {}:{}: {}; please report it", expression,
                                  file, line, message));
}

}  // namespace dino
