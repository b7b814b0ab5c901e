// SPDX-License-Identifier: Apache-2.0
#include "storage/temporary.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>
#include <system_error>

#include "base/error.hpp"
#include "base/pending_io.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr std::string_view kMark = ".tmp.";
constexpr int kNodeDigits = 6, kRandomDigits = 12;
/// Leaves room for the mark in a name of 255 bytes.
constexpr size_t kLongestStem = 180;

std::string first_line(const char* path) {
  std::array<char, 256> text{};
  if (std::FILE* file = std::fopen(path, "r"); file != nullptr) {
    if (std::fgets(text.data(), text.size(), file) == nullptr) text[0] = '\0';
    std::fclose(file);
  }
  std::string line = text.data();
  while (!line.empty() && line.back() == '\n') line.pop_back();
  return line;
}

/// The start of a process in ticks after the boot (field 22 of its stat, counted after the name, which may
/// hold spaces); -1 when there is none, or only what its parent has not buried yet.
long long start_of(long pid) {
  std::array<char, 1024> text{};
  std::FILE* file = std::fopen(fmt::format("/proc/{}/stat", pid).c_str(), "r");
  if (file == nullptr) return -1;
  const size_t size = std::fread(text.data(), 1, text.size() - 1, file);
  std::fclose(file);
  const std::string_view all(text.data(), size);
  size_t at = all.rfind(')');
  if (at == std::string_view::npos || all.substr(at).starts_with(") Z")) return -1;
  for (int field = 2; field < 22 && at != std::string_view::npos; ++field) at = all.find(' ', at + 1);
  long long ticks = -1;
  if (at != std::string_view::npos) std::from_chars(all.data() + at + 1, all.data() + size, ticks);
  return ticks;
}

/// Processes of one node, boot and namespace share it.
const std::string& own_node() {
  static const std::string node = [] {
    const ProcessMark& own = own_process();
    const std::string text = own.host + own.boot + own.space;
    return hex32(crc32c(std::as_bytes(std::span(text)))).substr(0, kNodeDigits);
  }();
  return node;
}

/// "out.h5.tmp.1a2b3c.4711.0123456789ab" -> node and pid.
bool parse(std::string_view name, std::string_view& node, long& pid) {
  const size_t at = name.rfind(kMark);
  if (at == std::string_view::npos || at == 0) return false;
  std::string_view rest = name.substr(at + kMark.size());
  constexpr std::string_view kHex = "0123456789abcdef";
  if (rest.size() < kNodeDigits + 2 || rest[kNodeDigits] != '.') return false;
  node = rest.substr(0, kNodeDigits);
  rest.remove_prefix(kNodeDigits + 1);
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), pid);
  const auto digits = static_cast<size_t>(end - rest.data());
  return error == std::errc() && rest.size() == digits + 1 + kRandomDigits && rest[digits] == '.' &&
         node.find_first_not_of(kHex) == std::string_view::npos &&
         rest.substr(digits + 1).find_first_not_of(kHex) == std::string_view::npos;
}

}  // namespace

std::string random_hex(int digits) {
  std::array<unsigned char, 16> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    std::random_device device;
    for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(device());
  }
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text.substr(0, static_cast<size_t>(digits));
}

std::string temporary_name(const std::string& path) {
  const size_t base = path.rfind('/') == std::string::npos ? 0 : path.rfind('/') + 1;
  return fmt::format("{}{}{}{}.{}.{}", path.substr(0, base), path.substr(base, kLongestStem), kMark,
                     own_node(), ::getpid(), random_hex(kRandomDigits));
}

int create_new_file(const std::string& path, const std::string& shown) {
  const IoScope scope("writing", shown);
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (fd < 0)
    throw IoError(fmt::format("cannot write: {}: {}", shown, std::system_category().message(errno)));
  return fd;
}

int open_without_links(const std::string& path, int flags) {
  const int fd = ::open(path.c_str(), flags | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (fd >= 0) return fd;
  const int error = errno;
  if (error == ELOOP)
    throw IoError(
        fmt::format("cannot write: {}: a link is in its place, and is not followed; remove it", path));
  throw IoError(fmt::format("cannot write: {}: {}", path, std::system_category().message(error)));
}

bool is_temporary(std::string_view name) {
  std::string_view node;
  long pid = 0;
  if (parse(name, node, pid)) return true;
  // Before the names were random: NAME.tmp.<pid>.
  const size_t at = name.rfind(kMark);
  return at != std::string_view::npos && at > 0 && at + kMark.size() < name.size() &&
         name.find_first_not_of("0123456789", at + kMark.size()) == std::string_view::npos;
}

bool has_live_writer(std::string_view name) {
  std::string_view node;
  long pid = 0;
  if (!parse(name, node, pid) || node != own_node()) return false;
  // A writer that was killed, and whose parent has not buried it yet, answers a signal too.
  if (::kill(static_cast<pid_t>(pid), 0) == 0) return start_of(pid) >= 0;
  return errno != ESRCH;
}

void remove_leftovers_of(const std::string& path) noexcept {
  namespace fs = std::filesystem;
  try {
    const fs::path whole(path);
    const std::string stem = whole.filename().string().substr(0, kLongestStem) + std::string(kMark);
    const fs::path folder = whole.has_parent_path() ? whole.parent_path() : fs::path(".");
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      const std::string name = it->path().filename().string();
      std::error_code ignored;
      if (name.starts_with(stem) && is_temporary(name) && !has_live_writer(name) &&
          fs::is_regular_file(it->symlink_status(ignored)))
        fs::remove(it->path(), ignored);
    }
  } catch (...) {
    return;  // what is left over does no harm
  }
}

const ProcessMark& own_process() {
  static const auto* own = [] {
    auto* mark = new ProcessMark;
    std::array<char, 256> text{};
    ::gethostname(text.data(), text.size() - 1);
    mark->host = text.data();
    mark->boot = first_line("/proc/sys/kernel/random/boot_id");
    struct stat status {};
    if (::stat("/proc/self/ns/pid", &status) == 0) mark->space = std::to_string(status.st_ino);
    return mark;
  }();
  // A child of fork is another process.
  thread_local ProcessMark mark;
  mark = *own;
  mark.pid = ::getpid();
  mark.started = start_of(mark.pid);
  return mark;
}

Life life_of(const ProcessMark& process) {
  const ProcessMark& own = own_process();
  if (process.host != own.host || process.boot.empty()) return Life::unknown;
  if (process.boot != own.boot) return Life::dead;
  if (process.space != own.space) return Life::unknown;
  return start_of(process.pid) == process.started ? Life::alive : Life::dead;
}

}  // namespace dino
