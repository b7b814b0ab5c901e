// SPDX-License-Identifier: Apache-2.0
#include "shell.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "base/error.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"

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

std::vector<std::string> clean_environment() {
  std::vector<std::string> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const bool slurm = text.starts_with("SLURM_") || text.starts_with("SBATCH_");
    if (!slurm || text.starts_with("SLURM_CONF=")) kept.emplace_back(text);
  }
  return kept;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  for (std::string& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

/// fork and exec; stdin is empty. Everything is prepared before the fork.
pid_t start(std::vector<std::string> words, int out, int err, bool own_group) {
  std::vector<std::string> environment = clean_environment();
  const std::vector<char*> argv = pointers(words);
  const std::vector<char*> envp = pointers(environment);
  const pid_t child = ::fork();
  if (child < 0) throw_errno("cannot start", words.front());
  if (child > 0) return child;
  if (own_group) ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2}) std::signal(signal, SIG_DFL);
  const int null = ::open("/dev/null", O_RDONLY);
  ::dup2(null, 0);
  ::dup2(out, 1);
  ::dup2(err, 2);
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

}  // namespace

ShellResult run_tool(const std::vector<std::string>& words, double seconds) {
  Pipe out, err;
  const pid_t child = start(words, out.write_end(), err.write_end(), true);
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

int run_stage_command(const std::string& command, const std::string& log) {
  const int log_fd = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (log_fd < 0) throw_errno("cannot write log", log);
  Pipe output;
  const pid_t child = start({"bash", "-c", command}, output.write_end(), output.write_end(), true);
  output.close_end(1);
  bool asked = false;
  bool open = true;
  int status = 0;
  bool ended = false;
  while (open || !ended) {
    if (stop_requested() && !asked) {
      ::kill(-child, SIGUSR2);
      asked = true;
    }
    pollfd poll_fd{output.read_end(), POLLIN, 0};
    if (open && ::poll(&poll_fd, 1, 100) > 0) {
      std::array<char, 16384> buffer;
      const ssize_t n = ::read(output.read_end(), buffer.data(), buffer.size());
      if (n > 0) {
        put(STDERR_FILENO, buffer.data(), n);
        put(log_fd, buffer.data(), n);
      } else if (n == 0) {
        open = false;
      }
    }
    if (!ended) {
      // Waiting only once the output is closed: a program that closes it early must not make us spin.
      const pid_t waited = ::waitpid(child, &status, open ? WNOHANG : 0);
      ended = waited == child || (waited < 0 && errno != EINTR);
    } else if (open && ::poll(&poll_fd, 1, 0) == 0) {
      open = false;  // something in the background holds the pipe; the stage itself has ended
    }
  }
  ::close(log_fd);
  return exit_code(status);
}

}  // namespace dino
