// SPDX-License-Identifier: Apache-2.0
// Preloaded under a program (LD_PRELOAD), it makes the file system or the process fail at a chosen file: what
// dead network mounts, broken disks and the out-of-memory killer do, without a word of it in the programs.
//   FAULT_PATH   the fault comes at a file whose path contains this; of A*B both, in this order
//   FAULT_CALL   open (the default), read, stat, list (of a folder), write, fsync, rename (to it), flock
//   FAULT_KIND   hang (the call never returns), slow (it takes a second more), kill, segv, stop (the
//                process; a test goes on from there), eio, an errno's number, or short (reads end in the
//                middle of the file)
//   FAULT_RANK   only on this rank
//   FAULT_AFTER  lets so many calls pass first
//   FAULT_COUNT  then strikes so many times
//   FAULT_WHILE  only while this file exists
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<int> matches{0};

template <class Function>
Function real(const char* symbol) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, symbol));
}

int number_of(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

bool contains(const char* path, const char* wanted) {
  const char* star = std::strchr(wanted, '*');
  if (star == nullptr) return std::strstr(path, wanted) != nullptr;
  const auto length = static_cast<size_t>(star - wanted);
  const void* first = ::memmem(path, std::strlen(path), wanted, length);
  return first != nullptr && contains(static_cast<const char*>(first) + length, star + 1);
}

bool chosen(const char* call, const char* path) {
  const char* wanted = std::getenv("FAULT_PATH");
  const char* at = std::getenv("FAULT_CALL");
  if (wanted == nullptr || std::strcmp(at == nullptr ? "open" : at, call) != 0) return false;
  if (!contains(path, wanted)) return false;
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const char* only = std::getenv("FAULT_RANK");
  if (only != nullptr && (rank == nullptr || std::strcmp(rank, only) != 0)) return false;
  const char* flag = std::getenv("FAULT_WHILE");
  if (flag != nullptr && ::access(flag, F_OK) != 0) return false;
  const int after = number_of("FAULT_AFTER", 0), count = number_of("FAULT_COUNT", INT_MAX);
  const int match = matches++;
  return match >= after && match - after < count;
}

bool is_short() {
  const char* kind = std::getenv("FAULT_KIND");
  return kind != nullptr && std::strcmp(kind, "short") == 0;
}

/// True when the call shall fail with errno.
bool strike(const char* call, const char* path) {
  const char* kind = std::getenv("FAULT_KIND");
  if (kind == nullptr || is_short() || !chosen(call, path)) return false;
  if (std::strcmp(kind, "hang") == 0)
    while (true) ::pause();
  if (std::strcmp(kind, "slow") == 0) ::sleep(1);
  if (std::strcmp(kind, "kill") == 0) ::kill(::getpid(), SIGKILL);
  if (std::strcmp(kind, "segv") == 0) std::raise(SIGSEGV);
  if (std::strcmp(kind, "stop") == 0) ::kill(::getpid(), SIGSTOP);
  const int number = std::strcmp(kind, "eio") == 0 ? EIO : std::atoi(kind);
  errno = number;
  return number != 0;
}

/// The path behind a descriptor, or behind /proc/self/fd/N.
struct Path {
  char text[PATH_MAX] = "";
  explicit Path(int fd) {
    char link[64] = "/proc/self/fd/";
    char* end = link + std::strlen(link);
    char digits[16];
    int n = 0;
    for (unsigned value = static_cast<unsigned>(fd); n == 0 || value > 0; value /= 10)
      digits[n++] = static_cast<char>('0' + value % 10);
    while (n > 0) *end++ = digits[--n];
    *end = '\0';
    follow(link);
  }
  explicit Path(const char* path) {
    if (std::strncmp(path, "/proc/self/fd/", 14) == 0)
      follow(path);
    else
      std::strncpy(text, path, sizeof text - 1);
  }

 private:
  void follow(const char* link) {
    const int error = errno;
    const ssize_t size = ::readlink(link, text, sizeof text - 1);
    text[size > 0 ? size : 0] = '\0';
    errno = error;
  }
};

bool strikes_fd(const char* call, int fd) {
  return std::getenv("FAULT_PATH") != nullptr && strike(call, Path(fd).text);
}

/// How many of `size` bytes at `offset` a file that ends too early still has.
size_t left_of(int fd, size_t size, off_t offset) {
  if (!is_short() || !chosen("read", Path(fd).text)) return size;
  struct stat status {};
  real<int (*)(int, struct stat*)>("fstat")(fd, &status);
  const off_t end = status.st_size / 2;
  return offset >= end ? 0 : std::min(size, static_cast<size_t>(end - offset));
}

using Open = int (*)(const char*, int, ...);
using ReadAt = ssize_t (*)(int, void*, size_t, off_t);
using WriteAt = ssize_t (*)(int, const void*, size_t, off_t);
using Stat = int (*)(const char*, struct stat*);

int open_as(const char* symbol, const char* path, int flags, mode_t mode) {
  if (strike("open", Path(path).text)) return -1;
  return real<Open>(symbol)(path, flags, mode);
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

ssize_t read_at(const char* symbol, int fd, void* out, size_t size, off_t offset) {
  if (strikes_fd("read", fd)) return -1;
  size = left_of(fd, size, offset);
  return size == 0 ? 0 : real<ReadAt>(symbol)(fd, out, size, offset);
}

ssize_t write_at(const char* symbol, int fd, const void* data, size_t size, off_t offset) {
  return strikes_fd("write", fd) ? -1 : real<WriteAt>(symbol)(fd, data, size, offset);
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

ssize_t pread(int fd, void* out, size_t size, off_t offset) {
  return read_at("pread", fd, out, size, offset);
}

ssize_t pread64(int fd, void* out, size_t size, off_t offset) {
  return read_at("pread64", fd, out, size, offset);
}

ssize_t write(int fd, const void* data, size_t size) {
  if (strikes_fd("write", fd)) return -1;
  return real<ssize_t (*)(int, const void*, size_t)>("write")(fd, data, size);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  return write_at("pwrite", fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void* data, size_t size, off_t offset) {
  return write_at("pwrite64", fd, data, size, offset);
}

int fsync(int fd) {
  return strikes_fd("fsync", fd) ? -1 : real<int (*)(int)>("fsync")(fd);
}

int rename(const char* from, const char* to) {
  return strike("rename", to) ? -1 : real<int (*)(const char*, const char*)>("rename")(from, to);
}

int flock(int fd, int operation) {
  return strikes_fd("flock", fd) ? -1 : real<int (*)(int, int)>("flock")(fd, operation);
}

int stat(const char* path, struct stat* status) {
  return strike("stat", path) ? -1 : real<Stat>("stat")(path, status);
}

DIR* opendir(const char* path) {
  return strike("list", path) ? nullptr : real<DIR* (*)(const char*)>("opendir")(path);
}
}
