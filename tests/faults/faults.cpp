// SPDX-License-Identifier: Apache-2.0
// Preloaded under a program (LD_PRELOAD), it makes the file system or the process fail at a chosen file: what
// dead network mounts, broken disks and the out-of-memory killer do, without a word of it in the programs.
//   FAULT_PATH   the fault comes when a file whose path contains this is opened
//   FAULT_KIND   hang (the call never returns), eio, kill, segv, stop (the process; a test goes on from
//   there) FAULT_RANK   only on this rank FAULT_AFTER  lets so many openings pass first
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<int> matches{0};

bool chosen(const char* path) {
  const char* wanted = std::getenv("FAULT_PATH");
  if (wanted == nullptr || std::strstr(path, wanted) == nullptr) return false;
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const char* only = std::getenv("FAULT_RANK");
  if (only != nullptr && (rank == nullptr || std::strcmp(rank, only) != 0)) return false;
  const char* after = std::getenv("FAULT_AFTER");
  return matches++ >= (after == nullptr ? 0 : std::atoi(after));
}

/// True when the call shall fail with errno.
bool strike(const char* path) {
  if (!chosen(path)) return false;
  const char* kind = std::getenv("FAULT_KIND");
  if (kind == nullptr) return false;
  if (std::strcmp(kind, "hang") == 0)
    while (true) ::pause();
  if (std::strcmp(kind, "kill") == 0) ::kill(::getpid(), SIGKILL);
  if (std::strcmp(kind, "segv") == 0) std::raise(SIGSEGV);
  if (std::strcmp(kind, "stop") == 0) ::kill(::getpid(), SIGSTOP);
  errno = EIO;
  return std::strcmp(kind, "eio") == 0;
}

using Open = int (*)(const char*, int, ...);

int open_as(const char* symbol, const char* path, int flags, mode_t mode) {
  if (strike(path)) return -1;
  const auto real = reinterpret_cast<Open>(dlsym(RTLD_NEXT, symbol));
  return real(path, flags, mode);
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

}  // namespace

extern "C" {
int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_as("open", path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_as("open64", path, flags, mode);
}
}
