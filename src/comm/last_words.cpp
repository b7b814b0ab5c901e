// SPDX-License-Identifier: Apache-2.0
#include "comm/last_words.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "base/error.hpp"
#include "base/file_mapping.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"
#include "comm/board.hpp"

namespace dino {
namespace {

constexpr std::array kCrashes = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

/// All that the signal handler needs, made beforehand: in a handler nothing may be allocated.
struct LastWords {
  std::string folder;         ///< <output>/errors
  std::string output, path;   ///< path: <output>/errors/rank_N.txt of this rank
  std::string before, after;  ///< "dino-x: error: ", " [rank 1 of 2]\n"
  int rank = 0;
  std::array<struct sigaction, kCrashes.size()> previous{};
};

LastWords& last_words() {
  static auto* instance = new LastWords;
  return *instance;
}

const char* crash_name(int signal) {
  switch (signal) {
    case SIGSEGV:
      return "SIGSEGV (bad memory access)";
    case SIGBUS:
      return "SIGBUS (bad memory access)";
    case SIGFPE:
      return "SIGFPE (arithmetic)";
    case SIGILL:
      return "SIGILL (an instruction that this CPU does not have)";
    default:
      return "SIGABRT";
  }
}

/// Only async-signal-safe calls.
class Line {
 public:
  void add(const char* text) {
    while (*text != '\0' && size_ < sizeof text_) text_[size_++] = *text++;
  }
  void write_to(int fd) const {
    if (::write(fd, text_, size_) < 0) return;  // nothing is left to be done about it
  }

 private:
  char text_[5120];  // a path and some words
  size_t size_ = 0;
};

/// A new file in errors/, which is made where it is missing; -1 when it cannot be. No link that stands in the
/// place of either is followed. Only async-signal-safe calls.
int open_error_file(const char* folder, const char* name) {
  ::mkdir(folder, 0777);
  const int parent = ::open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (parent < 0) return -1;
  ::unlinkat(parent, name, 0);
  const int fd = ::openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  ::close(parent);
  return fd;
}

/// Only async-signal-safe calls.
void say(const Line& line) {
  const LastWords& s = last_words();
  line.write_to(STDERR_FILENO);
  if (s.path.empty()) return;
  const int fd = open_error_file(s.folder.c_str(), s.path.c_str() + s.folder.size() + 1);
  if (fd < 0) return;
  Line note;
  note.add("phase: ");
  note.add(log::current_phase());
  note.add("\nerror: ");
  note.write_to(fd);
  line.write_to(fd);
  ::close(fd);
}

const char* phase_to_show() {
  return *log::current_phase() == '\0' ? "start" : log::current_phase();
}

/// The file that could not be read where it is mapped; null: this is something else.
const char* failed_mapping(int signal, const siginfo_t& info) {
  return signal == SIGBUS && info.si_code > 0 ? mapped_file_at(info.si_addr) : nullptr;
}

/// A fault of the machine and not of the program. The launcher ends the other ranks.
[[noreturn]] void end_unreadable(const char* file) {
  const LastWords& s = last_words();
  Line line;
  line.add(s.before.c_str());
  line.add("cannot read: ");
  line.add(file);
  line.add(": the disk failed under it while it was mapped, or it was cut meanwhile; in phase '");
  line.add(phase_to_show());
  line.add("'; look at the file system");
  line.add(s.after.c_str());
  say(line);
  leave_board();  // the others need not say that this rank died without a word
  ::_exit(static_cast<int>(ExitCode::io));
}

void on_crash(int signal, siginfo_t* info, void* /*context*/) {
  if (const char* file = failed_mapping(signal, *info); file != nullptr) end_unreadable(file);
  const LastWords& s = last_words();
  Line line;
  line.add(s.before.c_str());
  line.add("crashed: ");
  line.add(crash_name(signal));
  line.add(" in phase '");
  line.add(phase_to_show());
  line.add("'; please report it");
  line.add(s.after.c_str());
  say(line);
  for (size_t i = 0; i < kCrashes.size(); ++i) {
    if (kCrashes[i] == signal) ::sigaction(signal, &s.previous[i], nullptr);
  }
  ::raise(signal);  // delivered to the restored handler when this one returns
}

std::string name_of(int rank) {
  return fmt::format("rank_{}.txt", rank);
}

}  // namespace

void set_error_folder(const std::string& output) {
  LastWords& s = last_words();
  s.output = output;
  s.folder = output + "/errors";
  s.path = output.empty() ? "" : s.folder + "/" + name_of(s.rank);
}

void write_error_file(int rank, const char* phase, const std::string& text) noexcept {
  if (last_words().output.empty()) return;
  try {
    // Only below a folder that is there: an --output that names a file, or a typing error, makes no folders.
    const int fd = open_error_file(last_words().folder.c_str(), name_of(rank).c_str());
    std::FILE* file = fd < 0 ? nullptr : ::fdopen(fd, "w");
    if (file == nullptr) return;
    std::fprintf(file, "time: %s\nrank: %d\nphase: %s\nerror: %s\n", utc_now().c_str(), rank, phase,
                 text.c_str());
    std::fclose(file);
  } catch (...) {
    return;
  }
}

void clear_error_files() noexcept {
  const LastWords& s = last_words();
  if (s.output.empty()) return;
  const int fd = ::open(s.folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  DIR* folder = fd < 0 ? nullptr : ::fdopendir(fd);
  if (folder == nullptr) return;
  while (const dirent* entry = ::readdir(folder)) {
    const std::string_view name = entry->d_name;
    if (name.starts_with("rank_") && name.ends_with(".txt")) ::unlinkat(::dirfd(folder), entry->d_name, 0);
  }
  ::closedir(folder);
  ::rmdir(s.folder.c_str());  // stays where something else lies in it
}

void install_crash_handlers(const std::string& program, int rank, int ranks) {
  LastWords& s = last_words();
  s.before = program + ": error: ";
  s.after = ranks > 1 ? fmt::format(" [rank {} of {}]\n", rank, ranks) : "\n";
  s.rank = rank;
  set_error_folder(s.output);
  struct sigaction action {};
  action.sa_sigaction = on_crash;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kCrashes.size(); ++i) sigaction(kCrashes[i], &action, &s.previous[i]);
}

}  // namespace dino
