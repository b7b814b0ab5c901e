// SPDX-License-Identifier: Apache-2.0
// One job at a time in an output folder: by flock, and where the file system has none by claims.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <random>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/signals.hpp"
#include "base/timing.hpp"
#include "storage/files.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kClaim = ".lock.claim.";
/// Two that start at the same moment give way to each other for so long.
constexpr double kGiveWaySeconds = 10;

std::atomic<double> silence_seconds{60}, beat_seconds{5};

void sleep_seconds(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : value;
}

/// What a holder says of itself: one line for people, one for programs.
struct Words {
  std::string line;  ///< "host n1 pid 4711 since 2026-01-01T00:00:00Z Slurm job 7"
  ProcessMark process;
  std::string job, restart;  ///< Slurm's
  bool holds = false;        ///< false while it still looks for others
};

std::string own_line() {
  const ProcessMark& own = own_process();
  const std::string job = variable("SLURM_JOB_ID");
  return fmt::format("host {} pid {} since {}{}", own.host, own.pid, utc_now(),
                     job.empty() ? job : " Slurm job " + job);
}

/// Every field is followed by a space, and may be empty.
std::string own_marks() {
  const ProcessMark& own = own_process();
  return fmt::format("host={} pid={} boot={} space={} started={} job={} restart={}", own.host, own.pid,
                     own.boot, own.space, own.started, variable("SLURM_JOB_ID"),
                     variable("SLURM_RESTART_COUNT"));
}

Words parse(const std::string& text) {
  Words words;
  std::istringstream in(text);
  std::string marks;
  std::getline(in, words.line);
  std::getline(in, marks);
  std::istringstream fields(marks);
  for (std::string field; fields >> field;) {
    const size_t equals = field.find('=');
    if (equals == std::string::npos) continue;
    const std::string name = field.substr(0, equals), value = field.substr(equals + 1);
    if (name == "host") words.process.host = value;
    if (name == "boot") words.process.boot = value;
    if (name == "space") words.process.space = value;
    if (name == "pid") words.process.pid = std::atol(value.c_str());
    if (name == "started") words.process.started = std::atoll(value.c_str());
    if (name == "job") words.job = value;
    if (name == "restart") words.restart = value;
    if (name == "holds") words.holds = value == "yes";
  }
  return words;
}

/// A small file as it is now, by a new descriptor so that a network file system asks its server; nothing when
/// it is gone.
std::optional<std::string> read_fresh(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  std::array<char, 2048> text{};
  const auto got = ::pread(fd, text.data(), text.size(), 0);
  ::close(fd);
  return std::string(text.data(), static_cast<size_t>(std::max<ssize_t>(got, 0)));
}

std::vector<std::string> claims_in(const std::string& folder) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().filename().string().starts_with(kClaim)) found.push_back(it->path().string());
  if (error) throw IoError(fmt::format("cannot lock: {}: {}", folder, error.message()));
  std::sort(found.begin(), found.end());
  return found;
}

/// A job that Slurm has started again has ended before, wherever it ran.
bool is_earlier_self(const Words& words) {
  return !words.job.empty() && words.job == variable("SLURM_JOB_ID") &&
         words.restart != variable("SLURM_RESTART_COUNT");
}

/// Waits for a sign of life of a process that cannot be asked.
bool beats(const std::string& path) {
  const auto before = read_fresh(path);
  if (!before) return false;
  log::info(fmt::format("{}: waiting up to {:.3g} s for a sign of life of another host's job", path,
                        silence_seconds.load()));
  const Stopwatch watch;
  while (watch.seconds() < silence_seconds) {
    sleep_seconds(std::min(0.2, silence_seconds / 10));
    if (stop_requested())
      throw Error(ExitCode::stopped, fmt::format("stopped while {} was waited for; start again", path));
    const auto now = read_fresh(path);
    if (!now) return false;
    if (*now != *before) return true;
  }
  return false;
}

/// The live claims but for `own`; those of the dead are removed. `patient` finds out about other hosts.
std::vector<Words> living_claims(const std::string& folder, const std::string& own, bool patient) {
  std::vector<Words> living;
  for (const std::string& path : claims_in(folder)) {
    if (path == own) continue;
    const auto text = read_fresh(path);
    if (!text) continue;
    Words words = parse(*text);
    const Life life = is_earlier_self(words) ? Life::dead : life_of(words.process);
    const bool lives = life == Life::alive || (life == Life::unknown && (!patient || beats(path)));
    if (lives)
      living.push_back(std::move(words));
    else if (patient)
      ::unlink(path.c_str());
  }
  return living;
}

[[noreturn]] void refuse(const std::string& folder, const std::string& holder) {
  throw UsageError(fmt::format("output folder in use: {}: held by {}; wait for it or choose another --output",
                               folder, holder.empty() ? "another process" : holder));
}

bool lacks_flock(int error) {
  return error == ENOLCK || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL;
}

}  // namespace

void set_claim_seconds(double silence, double beat) {
  silence_seconds = silence;
  beat_seconds = beat;
}

/// A file of a random name, so that nobody removes another's by mistake. Whoever sees a second live one after
/// it has put its own gives way; of two, the later one always sees the first.
class FolderLock::Claim {
 public:
  explicit Claim(const std::string& folder) : folder_(folder) {
    const Stopwatch watch;
    while (true) {
      put();
      const std::vector<Words> others = living_claims(folder, path_, true);
      if (others.empty()) break;
      remove();
      const auto holder = std::find_if(others.begin(), others.end(), [](const Words& w) { return w.holds; });
      if (holder != others.end()) refuse(folder, holder->line);
      if (watch.seconds() > kGiveWaySeconds) refuse(folder, others.front().line);
      std::random_device random;
      sleep_seconds(0.02 + random() % 200 / 1000.0);
    }
    write(true);
    thread_ = std::thread([this] { beat(); });
  }
  ~Claim() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
    remove();
  }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  void put() {
    path_ = fmt::format("{}/{}{}", folder_, kClaim, random_hex(16));
    fd_ = create_new_file(path_, path_);
    try {
      write(false);
    } catch (...) {
      remove();
      throw;
    }
  }
  void remove() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    ::unlink(path_.c_str());
  }
  void write(bool holds) {
    const std::string text =
        fmt::format("{}\n{} holds={} beat={:012}\n", own_line_, own_marks_, holds ? "yes" : "no ", beats_++);
    if (::pwrite(fd_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) ||
        (::fsync(fd_) != 0 && errno != EINVAL && errno != ENOTSUP))
      throw IoError(fmt::format("cannot lock: {}: {}", path_,
                                std::error_code(errno, std::system_category()).message()));
  }
  /// A full disk or a silent server is no reason to end; a claim that another job has removed is.
  void beat() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, std::chrono::duration<double>(beat_seconds), [&] { return stop_; })) {
      try {
        write(true);
      } catch (const Error&) {
        continue;
      }
      if (struct stat status{}; ::lstat(path_.c_str(), &status) == 0 || errno != ENOENT) continue;
      log::error(fmt::format(
          "output folder lost: {}: this job was silent for so long that another one has taken it; "
          "it stops",
          folder_));
      request_stop();
      return;
    }
  }

  std::string folder_, path_;
  const std::string own_line_ = own_line(), own_marks_ = own_marks();
  int fd_ = -1;
  int64_t beats_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

FolderLock::FolderLock(const std::string& folder) {
  make_folders(folder);
  const std::string path = folder + "/.lock";
  fd_ = open_without_links(path, O_RDWR | O_CREAT);
  try {
    const bool locked = ::flock(fd_, LOCK_EX | LOCK_NB) == 0;
    const int error = errno;
    const std::string text = read_fresh(path).value_or("");
    const Words holder = parse(text);
    if (!locked && error == EWOULDBLOCK) refuse(folder, holder.line);
    if (!locked && !lacks_flock(error))
      throw IoError(
          fmt::format("cannot lock: {}: {}", path, std::error_code(error, std::system_category()).message()));
    if (!locked) {
      // A process of this node to which flock was given.
      if (life_of(holder.process) == Life::alive) refuse(folder, holder.line);
      claim_ = std::make_unique<Claim>(folder);
      return;
    }
    if (const auto claims = living_claims(folder, "", true); !claims.empty())
      refuse(folder, claims.front().line);
    const std::string words = own_line() + "\n" + own_marks() + "\n";
    // The text only informs; the lock itself is the kernel's.
    if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, words.data(), words.size(), 0) < 0)
      log::warning(fmt::format("cannot write the holder's name into {}: {}", path,
                               std::error_code(errno, std::system_category()).message()));
  } catch (...) {
    ::close(std::exchange(fd_, -1));
    throw;
  }
}

bool FolderLock::is_held(const std::string& folder) {
  const int fd = ::open((folder + "/.lock").c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return false;
  const bool held = ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  return held || !living_claims(folder, "", false).empty();
}

FolderLock::~FolderLock() {
  if (fd_ < 0) return;
  // Whoever has no flock goes by these words.
  if (!claim_ && ::ftruncate(fd_, 0) != 0) log::warning("cannot empty the lock file of an output folder");
  claim_.reset();
  ::close(fd_);
}

}  // namespace dino
