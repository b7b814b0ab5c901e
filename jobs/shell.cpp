// SPDX-License-Identifier: Apache-2.0
#include "shell.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "base/error.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "storage/temporary.hpp"

extern char** environ;

namespace dino {
namespace {

/// Both ends of a pipe, closed at the end of the scope.
class Pipe {
 public:
  Pipe() {
    if (::pipe2(ends_.data(), O_CLOEXEC) != 0) throw_errno("cannot make a pipe", "dino-jobs");
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  [[nodiscard]] int read_end() const { return ends_[0]; }
  [[nodiscard]] int write_end() const { return ends_[1]; }
  void close_end(size_t i) {
    if (ends_[i] >= 0) ::close(ends_[i]);
    ends_[i] = -1;
  }

 private:
  std::array<int, 2> ends_{-1, -1};
};

/// Does a variable choose among jobs, so that squeue, sacct or scancel would not see all of them
/// (SQUEUE_PARTITION)?
bool hides_jobs(std::string_view name) {
  constexpr const char* kTools[] = {"SQUEUE_", "SACCT_", "SCANCEL_"};
  constexpr const char* kChoices[] = {"ACCOUNT", "FEDERATION", "INTERACTIVE", "LICENSES", "LOCAL",
                                      "NAME",    "NAMES",      "PARTITION",   "QOS",      "SIBLING",
                                      "STATE",   "STATES",     "USER",        "USERS"};
  return std::any_of(std::begin(kTools), std::end(kTools), [&](std::string_view tool) {
    return name.starts_with(tool) && std::find(std::begin(kChoices), std::end(kChoices),
                                               name.substr(tool.size())) != std::end(kChoices);
  });
}

/// This process's, without what Slurm set for a job around it, and without what hides jobs.
std::vector<std::string> clean_environment() {
  std::vector<std::string> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const bool slurm = text.starts_with("SLURM_") || text.starts_with("SBATCH_") ||
                       hides_jobs(text.substr(0, text.find('=')));
    if (!slurm || text.starts_with("SLURM_CONF=")) kept.emplace_back(text);
  }
  return kept;
}

/// For tools whose words we read.
std::vector<std::string> tool_environment() {
  std::vector<std::string> kept = clean_environment();
  std::erase_if(kept, [](const std::string& entry) {
    return entry.starts_with("LC_ALL=") || entry.starts_with("BASH_ENV=");
  });
  kept.emplace_back("LC_ALL=C");
  return kept;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

/// fork and exec in a process group of its own; stdin is empty, `kept` stays open. Everything is prepared
/// before the fork. The child gets SIGTERM when this process dies.
pid_t start(std::vector<std::string> words, std::vector<std::string> environment, int out, int err,
            int kept = -1) {
  const std::vector<char*> argv = pointers(words);
  const std::vector<char*> envp = pointers(environment);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) throw_errno("cannot start", words.front());
  if (child > 0) return child;
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) _exit(127);  // it died before it could be watched
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2}) std::signal(signal, SIG_DFL);
  const int null = ::open("/dev/null", O_RDONLY);
  ::dup2(null, 0);
  ::dup2(out, 1);
  ::dup2(err, 2);
  if (kept >= 0) ::fcntl(kept, F_SETFD, 0);
  ::execvpe(argv.front(), argv.data(), envp.data());
  _exit(127);
}

int exit_code(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void put(int fd, const char* data, ssize_t size) {
  while (size > 0) {
    const ssize_t n = ::write(fd, data, static_cast<size_t>(size));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    data += n;
    size -= n;
  }
}

/// What a log holds from `shown` on goes to stderr; the new end.
off_t show_new(int log, off_t shown) {
  std::array<char, 16384> buffer;
  for (ssize_t n = 0; (n = ::pread(log, buffer.data(), buffer.size(), shown)) > 0; shown += n)
    put(STDERR_FILENO, buffer.data(), n);
  return shown;
}

bool is_locked_elsewhere(int fd) {
  return ::flock(fd, LOCK_EX | LOCK_NB) != 0 &&
         errno == EWOULDBLOCK;  // else: ours, or a file system without locks
}

/// Opened and locked. The lock belongs to the open file, which the script inherits: it ends with both of us.
int lock_for_script(const std::string& path) {
  constexpr double kPatience = 10;
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) throw_errno("cannot lock", path);
  const Stopwatch watch;
  while (is_locked_elsewhere(fd)) {
    if (watch.seconds() > kPatience || stop_requested()) {
      ::close(fd);
      throw UsageError(
          fmt::format("stage still running: {}: one of a killed dino-jobs is still saving its work; start "
                      "again when it is over",
                      path));
    }
    ::usleep(100000);
  }
  return fd;
}

}  // namespace

bool is_stage_running(const std::string& lock) {
  const int fd = ::open(lock.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return false;
  const bool held = is_locked_elsewhere(fd);
  ::close(fd);
  return held;
}

ShellResult run_tool(const std::vector<std::string>& words, double seconds) {
  Pipe out, err;
  const pid_t child = start(words, tool_environment(), out.write_end(), err.write_end());
  out.close_end(1);
  err.close_end(1);
  ShellResult result;
  const Stopwatch watch;
  std::array<pollfd, 2> polls{{{out.read_end(), POLLIN, 0}, {err.read_end(), POLLIN, 0}}};
  bool killed = false;
  while (polls[0].fd >= 0 || polls[1].fd >= 0) {
    if (!killed && watch.seconds() > seconds) {
      ::kill(-child, SIGKILL);
      killed = true;
    }
    if (::poll(polls.data(), polls.size(), 100) < 0 && errno != EINTR) break;
    for (size_t i = 0; i < 2; ++i) {
      if (polls[i].fd < 0 || polls[i].revents == 0) continue;
      std::array<char, 4096> buffer;
      const ssize_t n = ::read(polls[i].fd, buffer.data(), buffer.size());
      if (n > 0) (i == 0 ? result.out : result.err).append(buffer.data(), static_cast<size_t>(n));
      if (n == 0 || (n < 0 && errno != EINTR)) polls[i].fd = -1;
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  result.code = killed ? 124 : exit_code(status);
  return result;
}

int run_stage_script(const std::vector<std::string>& words, const std::string& log, const std::string& lock) {
  // The script writes its log itself. Through a pipe, the first word of a stage that still saves its work
  // after this process was killed would end it by SIGPIPE.
  const int log_fd = open_without_links(log, O_RDWR | O_CREAT | O_APPEND);
  const int lock_fd = lock_for_script(lock);
  off_t shown = ::lseek(log_fd, 0, SEEK_END);
  const pid_t child = start(words, clean_environment(), log_fd, log_fd, lock_fd);
  ::close(lock_fd);
  bool asked = false;
  int status = 0;
  for (bool ended = false; !ended;) {
    if (stop_requested() && !asked) {
      ::kill(child, SIGTERM);  // the script knows whom to tell
      asked = true;
    }
    const pid_t waited = ::waitpid(child, &status, WNOHANG);
    ended = waited == child || (waited < 0 && errno != EINTR);
    shown = show_new(log_fd, shown);
    if (!ended) ::usleep(50000);
  }
  ::close(log_fd);
  return exit_code(status);
}

}  // namespace dino
