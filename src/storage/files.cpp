// SPDX-License-Identifier: Apache-2.0
#include "storage/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/error.hpp"
#include "base/pending_io.hpp"
#include "base/retry.hpp"
#include "storage/posix_file.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace fs = std::filesystem;

namespace {

IoError lost_file(const char* what, const std::string& path) {
  return IoError(fmt::format(
      "{}: {}: {}: it was there when it was listed; check that this node's file system is mounted, and the "
      "rights",
      what, path, std::system_category().message(errno)));
}

}  // namespace

PosixFile::PosixFile(const std::string& path, Presence presence) : path_(path), presence_(presence) {
  fd_ = retrying(path_, [&] { return open(); });
  struct stat status {};
  if (::fstat(fd_, &status) == 0) size_ = status.st_size;
}

int PosixFile::open() const {
  const IoScope scope("opening", path_);
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("cannot open");
  struct stat status {};
  if (::fstat(fd, &status) == 0 && !S_ISDIR(status.st_mode)) return fd;
  const int error = errno;
  ::close(fd);
  if (S_ISDIR(status.st_mode))
    throw DataError(fmt::format("cannot read: {}: is a folder; give a file", path_));
  errno = error;
  fail("cannot stat");
}

void PosixFile::fail(const char* what) const {
  if (presence_ == Presence::unknown || !is_lost_file(errno)) throw_errno(what, path_);
  throw lost_file(what, path_);
}

PosixFile::~PosixFile() {
  if (fd_ >= 0) ::close(fd_);
}

PosixFile::PosixFile(PosixFile&& other) noexcept
    : path_(std::move(other.path_)),
      presence_(other.presence_),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_) {}

int64_t PosixFile::read_some(int64_t offset, void* out, int64_t size) const {
  bool again = false;
  return retrying(path_, [&] {
    if (again) {
      // A stale handle stays stale. Other threads may be reading: the new one takes its number.
      const int fresh = open();
      ::dup3(fresh, fd_, O_CLOEXEC);
      ::close(fresh);
    }
    again = true;
    return try_to_read(offset, out, size);
  });
}

int64_t PosixFile::try_to_read(int64_t offset, void* out, int64_t size) const {
  const IoScope scope("reading", path_);
  int64_t done = 0;
  while (done < size) {
    const auto got = ::pread(fd_, static_cast<char*>(out) + done, static_cast<size_t>(size - done),
                             static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("cannot read");
    if (got == 0) break;
    done += got;
  }
  if (done < size && offset + done < size_)
    throw IoError(fmt::format(
        "short read: {}: it ends at {} of {} bytes; check the file system, or whether the file was cut",
        path_, offset + done, size_));
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

std::vector<uint8_t> read_listed(const std::string& path, int64_t offset, int64_t size) {
  return retrying(path, [&] {
    const PosixFile file(path, Presence::listed);
    // Members of tars never begin at 0.
    const bool whole = offset == 0;
    const int64_t end = size < 0 ? file.size() : offset + size;
    if (whole ? file.size() != end : file.size() < end)
      throw IoError(fmt::format(
          "wrong size: {}: {} bytes, {} when it was listed; check the file system, or whether it was changed",
          path, file.size(), end));
    std::vector<uint8_t> bytes(static_cast<size_t>(end - offset));
    const int64_t got = file.read_some(offset, bytes.data(), end - offset);
    if (got != end - offset)
      throw IoError(fmt::format("short read: {}: {} of {} bytes at offset {}; check the file system", path,
                                got, end - offset, offset));
    return bytes;
  });
}

int64_t listed_size(const std::string& path) {
  return retrying(path, [&] {
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0) return static_cast<int64_t>(status.st_size);
    if (is_lost_file(errno)) throw lost_file("cannot stat", path);
    throw_errno("cannot stat", path);
  });
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
  const std::string temporary = temporary_name(path);
  const int fd = create_new_file(temporary, path);
  try {
    write(temporary);
    // The writer opens the name again: it must still be our file that stands there.
    struct stat ours {
    }, there{};
    if (::fstat(fd, &ours) != 0 || ::lstat(temporary.c_str(), &there) != 0)
      throw IoError(fmt::format("cannot write: {}: {}", path, last_error()));
    if (ours.st_ino != there.st_ino || ours.st_dev != there.st_dev)
      throw IoError(
          fmt::format("cannot write: {}: somebody put another file in the place of {}; see who writes there",
                      path, temporary));
    fsync_file(temporary);
    rename_durably(temporary, path);
  } catch (...) {
    ::close(fd);
    ::unlink(temporary.c_str());
    throw;
  }
  ::close(fd);
}

void write_file_pieces(const std::string& temporary, const std::string& shown,
                       const std::vector<std::pair<const void*, int64_t>>& pieces) {
  const int fd = open_without_links(temporary, O_WRONLY | O_CREAT | O_TRUNC);
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

bool find_status(const std::string& path, struct stat& status) {
  return retrying(path, [&] {
    if (::stat(path.c_str(), &status) == 0) return true;
    if (is_passing_fault(errno)) throw_errno("cannot stat", path);
    return false;
  });
}

bool path_exists(const std::string& path) {
  struct stat status {};
  return find_status(path, status);
}

bool is_folder(const std::string& path) {
  struct stat status {};
  return find_status(path, status) && S_ISDIR(status.st_mode);
}

int64_t file_size(const std::string& path) {
  struct stat status {};
  if (!find_status(path, status)) throw_errno("cannot stat", path);
  return status.st_size;
}

LineWriter::LineWriter(std::string path) : path_(std::move(path)) {
  fd_ = open_without_links(path_, O_RDWR | O_CREAT | O_APPEND);
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

void LineWriter::close() {
  const bool synced = ::fsync(fd_) == 0 || errno == EINVAL || errno == ENOTSUP;
  const int error = errno;
  const bool closed = ::close(std::exchange(fd_, -1)) == 0;
  if (!synced) errno = error;
  if (!synced || !closed) throw IoError(fmt::format("cannot append: {}: {}", path_, last_error()));
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

}  // namespace dino
