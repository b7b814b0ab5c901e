// SPDX-License-Identifier: Apache-2.0
#include "storage/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/pending_io.hpp"
#include "base/timing.hpp"
#include "storage/posix_file.hpp"

namespace dino {
namespace fs = std::filesystem;

PosixFile::PosixFile(const std::string& path) : path_(path) {
  const IoScope scope("opening", path_);
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) throw_errno("cannot open", path);
  struct stat status {};
  if (::fstat(fd_, &status) != 0 || S_ISDIR(status.st_mode)) {
    const bool folder = S_ISDIR(status.st_mode);
    if (!folder) throw_errno("cannot stat", path);
    ::close(fd_);
    throw DataError(fmt::format("cannot read: {}: is a folder; give a file", path));
  }
  size_ = status.st_size;
}

PosixFile::~PosixFile() {
  if (fd_ >= 0) ::close(fd_);
}

PosixFile::PosixFile(PosixFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

int64_t PosixFile::read_some(int64_t offset, void* out, int64_t size) const {
  const IoScope scope("reading", path_);
  int64_t done = 0;
  while (done < size) {
    const auto got = ::pread(fd_, static_cast<char*>(out) + done, static_cast<size_t>(size - done),
                             static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno("cannot read", path_);
    if (got == 0) break;
    done += got;
  }
  return done;
}

void PosixFile::read_exactly(int64_t offset, void* out, int64_t size) const {
  const int64_t got = read_some(offset, out, size);
  if (got != size)
    throw DataError(fmt::format("truncated file: {}: {} bytes expected at offset {}, {} there; copy it again",
                                path_, size, offset, got));
}

void write_fully(int fd, const void* data, int64_t size, const std::string& path) {
  const IoScope scope("writing", path);
  int64_t done = 0;
  while (done < size) {
    const auto put = ::write(fd, static_cast<const char*>(data) + done, static_cast<size_t>(size - done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0)
      throw IoError(fmt::format("cannot write: {}: {}", path, std::system_category().message(errno)));
    done += put;
  }
}

namespace {

std::string parent_of(const std::string& path) {
  const auto parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

std::string last_error() {
  return std::system_category().message(errno);
}

}  // namespace

std::string read_text(const std::string& path) {
  const auto bytes = read_bytes(path);
  return {bytes.begin(), bytes.end()};
}

std::vector<uint8_t> read_bytes(const std::string& path, int64_t offset, int64_t size) {
  const PosixFile file(path);
  std::vector<uint8_t> bytes;
  if (size >= 0) {
    if (offset < 0 || size > file.size() || offset > file.size() - size)
      throw DataError(
          fmt::format("truncated file: {}: {} bytes at offset {} asked for, {} there; copy it again", path,
                      size, offset, file.size()));
    bytes.resize(static_cast<size_t>(size));
    file.read_exactly(offset, bytes.data(), size);
    return bytes;
  }
  // Files in /proc and pipes have no size, so read until the end rather than trusting stat.
  constexpr int64_t kStep = 1 << 16;
  int64_t done = 0;
  while (true) {
    const int64_t want = std::max(kStep, file.size() - offset - done + 1);
    bytes.resize(static_cast<size_t>(done + want));
    const int64_t got = file.read_some(offset + done, bytes.data() + done, want);
    done += got;
    if (got < want) break;
  }
  bytes.resize(static_cast<size_t>(done));
  return bytes;
}

void fsync_file(const std::string& path) {
  const IoScope scope("syncing", path);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw_errno("cannot open", path);
  const int failed = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  errno = error;
  // Some file systems cannot fsync a folder or a special file; that is not a lost write.
  if (failed != 0 && error != EINVAL && error != ENOTSUP)
    throw IoError(fmt::format("cannot fsync: {}: {}", path, last_error()));
}

void fsync_folder(const std::string& path) {
  fsync_file(path);
}

void commit_file(const std::string& path, const std::function<void(const std::string& temporary)>& write) {
  check_replaceable(path);
  const std::string temporary = fmt::format("{}.tmp.{}", path, ::getpid());
  try {
    write(temporary);
    fsync_file(temporary);
    rename_durably(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void write_file_pieces(const std::string& temporary, const std::string& shown,
                       const std::vector<std::pair<const void*, int64_t>>& pieces) {
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) throw IoError(fmt::format("cannot write: {}: {}", shown, last_error()));
  try {
    for (const auto& [data, size] : pieces) write_fully(fd, data, size, shown);
  } catch (...) {
    ::close(fd);
    throw;
  }
  // Network file systems report a full disk only here.
  if (::close(fd) != 0) throw IoError(fmt::format("cannot write: {}: {}", shown, last_error()));
}

void write_file_atomically(const std::string& path, std::string_view content) {
  commit_file(path, [&](const std::string& temporary) {
    write_file_pieces(temporary, path, {{content.data(), static_cast<int64_t>(content.size())}});
  });
}

void make_folders(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error) return;
  const bool in_the_way = error == std::errc::file_exists || error == std::errc::not_a_directory;
  throw IoError(fmt::format("cannot make folder: {}: {}; {}", path, error.message(),
                            in_the_way ? "a file or a broken link is in its place: name another"
                                       : "name a place where it can be made"));
}

void check_replaceable(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0 || S_ISREG(status.st_mode) || S_ISLNK(status.st_mode)) return;
  throw UsageError(fmt::format("cannot write: {}: it is {}, not a file; name another output", path,
                               S_ISDIR(status.st_mode) ? "a folder" : "a device or a pipe"));
}

void rename_durably(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw IoError(fmt::format("cannot rename: {} to {}: {}", from, to, last_error()));
  fsync_folder(parent_of(to));
}

bool path_exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

bool is_folder(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

int64_t file_size(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw_errno("cannot stat", path);
  return status.st_size;
}

LineWriter::LineWriter(std::string path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) throw IoError(fmt::format("cannot write: {}: {}", path_, last_error()));
  off_t end = ::lseek(fd_, 0, SEEK_END);
  const off_t size = end;
  char buffer[4096];
  bool found = end <= 0;
  while (!found) {
    const auto want = static_cast<size_t>(std::min<off_t>(end, sizeof buffer));
    const auto got = ::pread(fd_, buffer, want, end - static_cast<off_t>(want));
    if (got != static_cast<ssize_t>(want)) break;
    size_t i = want;
    while (i > 0 && buffer[i - 1] != '\n') --i;
    end -= static_cast<off_t>(want - i);
    found = i > 0 || end == 0;
  }
  if (!found || (end < size && ::ftruncate(fd_, end) != 0)) {
    const std::string why = last_error();
    ::close(fd_);
    throw IoError(fmt::format("cannot cut off a half-written line: {}: {}", path_, why));
  }
}

LineWriter::~LineWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void LineWriter::write(std::string_view line) {
  std::string whole(line);
  whole += '\n';
  ssize_t put = 0;
  do {
    put = ::write(fd_, whole.data(), whole.size());
  } while (put < 0 && errno == EINTR);
  if (put == static_cast<ssize_t>(whole.size())) return;
  const std::string why = put < 0 ? last_error() : "no space left for the whole line";
  // Take the part that was written back, so that the file still ends in a whole line.
  if (put > 0 && ::ftruncate(fd_, ::lseek(fd_, 0, SEEK_END) - put) != 0)
    throw IoError(fmt::format("cannot append: {}: {}; its last line is half-written", path_, why));
  throw IoError(fmt::format("cannot append: {}: {}", path_, why));
}

FolderLock::FolderLock(const std::string& folder) {
  make_folders(folder);
  const std::string path = folder + "/.lock";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) throw IoError(fmt::format("cannot lock: {}: {}", path, last_error()));
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (error == EWOULDBLOCK) {
      char holder[512] = {};
      const auto got = ::pread(fd_, holder, sizeof holder - 1, 0);
      ::close(fd_);
      std::string name(holder, static_cast<size_t>(std::max<ssize_t>(got, 0)));
      while (!name.empty() && name.back() == '\n') name.pop_back();
      throw UsageError(
          fmt::format("output folder in use: {}: held by {}; wait for it or choose another --output", folder,
                      name.empty() ? "another process" : name));
    }
    // Lustre mounted with noflock, some NFS: better to run without the lock than not at all, and to say so.
    log::warning(
        fmt::format("cannot lock {}: {}; make sure that only one job writes there", path, last_error()));
  }
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const char* job = std::getenv("SLURM_JOB_ID");
  const std::string text = fmt::format("host {} pid {} since {}{}\n", host, ::getpid(), utc_now(),
                                       job == nullptr ? std::string() : fmt::format(" Slurm job {}", job));
  // The text only informs; the lock itself is the kernel's.
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, text.data(), text.size(), 0) < 0)
    log::warning(fmt::format("cannot write the holder's name into {}: {}", path, last_error()));
}

bool FolderLock::is_held(const std::string& folder) {
  const int fd = ::open((folder + "/.lock").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool held = ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  return held;
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

}  // namespace dino
