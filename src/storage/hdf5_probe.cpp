// SPDX-License-Identifier: Apache-2.0
#include "storage/hdf5_probe.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <set>
#include <system_error>
#include <tuple>

#include "base/error.hpp"
#include "storage/hdf5_handles.hpp"
#include "storage/hdf5_walk.hpp"

namespace dino::h5 {
namespace {

constexpr const char* kAsked = "--serve-hdf5-probes";
constexpr int kSocket = STDIN_FILENO;
constexpr int kOutOfMemory = 3;
/// A probe reads metadata and chunked data; contiguous data are not touched.
constexpr uint64_t kCpuSeconds = 60;
constexpr uint64_t kBytesPerCpuSecond = 50 << 20;
/// Of wall-clock time per CPU second allowed: a file system may be slow, a pipe behind a link waits for ever.
constexpr uint64_t kPatience = 10;
constexpr uint64_t kMemory = uint64_t{2} << 30;
constexpr uint64_t kMemoryPerByte = 4;

/// What came of one file.
struct Verdict {
  int status = 0;          ///< as waitpid gives it
  uint64_t cpu_limit = 0;  ///< seconds
  Place place;             ///< where the reader was
};

// ---- the process that reads

void limit(int resource, rlim_t value) {
  rlimit old{};
  ::getrlimit(static_cast<__rlimit_resource_t>(resource), &old);
  const rlimit wanted{std::min(value, old.rlim_max), old.rlim_max};
  ::setrlimit(static_cast<__rlimit_resource_t>(resource), &wanted);
}

uint64_t cpu_limit(const std::string& path) {
  struct stat status {};
  const uint64_t bytes = ::stat(path.c_str(), &status) == 0 ? static_cast<uint64_t>(status.st_size) : 0;
  return kCpuSeconds + bytes / kBytesPerCpuSecond;
}

/// The sanitizers map terabytes of address space, so that no limit on it can be set.
void limit_memory([[maybe_unused]] const std::string& path) {
#ifndef DINO_SANITIZE
  struct stat status {};
  const uint64_t bytes = ::stat(path.c_str(), &status) == 0 ? static_cast<uint64_t>(status.st_size) : 0;
  unsigned long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r"); file != nullptr) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  limit(RLIMIT_AS, pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) + kMemory + kMemoryPerByte * bytes);
#endif
}

[[noreturn]] void read_and_exit(const std::string& path, uint64_t seconds, Place& place) {
  ::close(kSocket);
  limit(RLIMIT_CPU, seconds);
  limit_memory(path);
  ::alarm(static_cast<unsigned>(seconds * kPatience));
  int code = 0;
  try {
    walk_file(path, place);
  } catch (const std::bad_alloc&) {
    code = kOutOfMemory;
  } catch (const std::exception&) {
    // The reader meets the same fault and reports it better.
  }
  ::_exit(code);
}

Verdict judge(const std::string& path, Place& place) {
  place = {};
  Verdict verdict;
  verdict.cpu_limit = cpu_limit(path);
  const pid_t child = ::fork();
  if (child == 0) read_and_exit(path, verdict.cpu_limit, place);
  // A fork that failed looks like a child that was killed: the file is not declared sound.
  verdict.status = SIGKILL;
  if (child > 0) {
    while (::waitpid(child, &verdict.status, 0) < 0 && errno == EINTR) {
    }
  }
  verdict.place = place;
  return verdict;
}

// ---- the process that asks

class Server {
 public:
  Server() = default;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() = default;  // the socket closes with this process, and the server ends

  Verdict ask(const std::string& path) {
    Verdict verdict;
    // It may have been killed with the processes of a job step: then another one is asked.
    for (int attempt = 0; attempt < 2; ++attempt) {
      if (socket_ < 0) start();
      if (send_path(path) && receive(verdict)) return verdict;
      stop();
    }
    throw IoError(
        fmt::format("cannot check HDF5 file: {}: the process that reads it first ended; check the "
                    "limits on processes and memory (ulimit -a)",
                    path));
  }

 private:
  void start() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
      throw_errno("cannot make a socket", "for reading HDF5 files");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], kSocket);
    // Nobody who waits for this program's output to end waits for the server as well.
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    const char* executable = "/proc/self/exe";
    std::string name = "dino", asked = kAsked;
    std::array<char*, 3> argv = {name.data(), asked.data(), nullptr};
    const int error = ::posix_spawn(&pid_, executable, &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    if (error != 0) {
      ::close(ends[0]);
      throw IoError(fmt::format("cannot check HDF5 files: {}: cannot start it again to read them first: {}",
                                executable, std::system_category().message(error)));
    }
    socket_ = ends[0];
  }

  void stop() {
    ::close(socket_);
    socket_ = -1;
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  [[nodiscard]] bool send_path(const std::string& path) const {
    ssize_t put = 0;
    do put = ::send(socket_, path.data(), path.size(), MSG_NOSIGNAL);
    while (put < 0 && errno == EINTR);
    return put == static_cast<ssize_t>(path.size());
  }

  [[nodiscard]] bool receive(Verdict& verdict) const {
    ssize_t got = 0;
    do got = ::recv(socket_, &verdict, sizeof verdict, 0);
    while (got < 0 && errno == EINTR);
    return got == static_cast<ssize_t>(sizeof verdict);
  }

  int socket_ = -1;
  pid_t pid_ = -1;
};

std::string cause_of(const Verdict& verdict) {
  const std::string place =
      verdict.place.object[0] == '\0' ? "" : fmt::format(" at {}", verdict.place.object.data());
  if (WIFSIGNALED(verdict.status)) {
    const int signal = WTERMSIG(verdict.status);
    if (signal == SIGXCPU || signal == SIGALRM)
      return fmt::format("the HDF5 library does not come to an end{} within {} s of CPU time", place,
                         verdict.cpu_limit);
    return fmt::format("the HDF5 library crashes{} ({})", place, ::strsignal(signal));
  }
  if (WEXITSTATUS(verdict.status) == kOutOfMemory)
    return fmt::format("reading it{} needs far more memory than a file of its size can fill", place);
  return fmt::format("the HDF5 library crashes{} (exit {})", place, WEXITSTATUS(verdict.status));
}

}  // namespace

void probe(const std::string& path) {
  static Server server;
  static std::set<std::tuple<dev_t, ino_t, off_t, int64_t, int64_t>> sound;
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw_errno("cannot stat", path);
  const std::tuple key{status.st_dev, status.st_ino, status.st_size, int64_t{status.st_ctim.tv_sec},
                       int64_t{status.st_ctim.tv_nsec}};
  if (sound.contains(key)) return;
  const Verdict verdict = server.ask(path);
  if (verdict.status != 0)
    throw DataError(
        fmt::format("damaged HDF5 file: {}: {}; copy it again or write it anew", path, cause_of(verdict)));
  sound.insert(key);
}

bool probe_asked(int argc, char** argv) {
  return argc == 2 && std::strcmp(argv[1], kAsked) == 0;
}

int serve_probes() {
  // A stop request to a whole job step is the other process's business; this one ends with it.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE}) ::signal(signal, SIG_IGN);
  // The spawner may have blocked what limits the child.
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::syscall(SYS_close_range, 3U, ~0U, 0U);
  limit(RLIMIT_CORE, 0);
  void* shared = ::mmap(nullptr, sizeof(Place), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return static_cast<int>(ExitCode::io);
  auto& place = *new (shared) Place;
  { const Lock lock; }  // the library starts once, here, rather than in every child
  std::array<char, 1 << 16> path{};
  while (true) {
    const ssize_t got = ::recv(kSocket, path.data(), path.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return 0;
    const Verdict verdict = judge(std::string(path.data(), static_cast<size_t>(got)), place);
    if (::send(kSocket, &verdict, sizeof verdict, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof verdict))
      return 0;
  }
}

}  // namespace dino::h5
