// SPDX-License-Identifier: Apache-2.0
#include "datasets/tar_unpack.hpp"

#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "datasets/archive_reader.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/prepare.hpp"
#include "storage/files.hpp"
#include "storage/posix_file.hpp"
#include "storage/tar.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

/// Images hardly shrink and headers do; a file that unpacks to more than this is a bomb.
constexpr int64_t kAlwaysAllowed = int64_t{256} << 20;
constexpr int64_t kMostExpansion = 100;

/// Copies until the end or the first damage, which it returns.
std::string unpack(const std::string& path, const std::string& to, const std::string& shown) {
  const ArchiveReader reader(archive_read_new());
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_filter_bzip2(reader.get());
  archive_read_support_filter_xz(reader.get());
  archive_read_support_filter_zstd(reader.get());
  archive_read_support_format_raw(reader.get());
  const auto cause = [&] {
    const char* why = archive_error_string(reader.get());
    return std::string(why == nullptr ? "unknown damage" : why);
  };
  const int fd = open_without_links(to, O_WRONLY | O_CREAT | O_TRUNC);
  const std::unique_ptr<const int, void (*)(const int*)> closer(&fd, [](const int* f) { ::close(*f); });
  archive_entry* entry = nullptr;
  if (archive_read_open_filename(reader.get(), path.c_str(), 1 << 16) != ARCHIVE_OK ||
      archive_read_next_header(reader.get(), &entry) != ARCHIVE_OK)
    return "cannot unpack: " + cause();
  const int64_t most = kAlwaysAllowed + kMostExpansion * file_size(path);
  std::vector<char> chunk(size_t{1} << 20);
  int64_t total = 0;
  while (true) {
    const auto got = archive_read_data(reader.get(), chunk.data(), chunk.size());
    if (got < 0 && is_passing_fault(archive_errno(reader.get())))
      throw IoError(fmt::format("cannot read: {}: {}; check its file system", path, cause()));
    if (got < 0) return fmt::format("damaged after {} unpacked bytes: {}", total, cause());
    if (got == 0) return {};
    total += got;
    if (total > most)
      throw DataError(fmt::format(
          "cannot unpack: {}: it has {} bytes and unpacks to more than {}, which no tar of images "
          "does; unpack it by hand",
          path, file_size(path), most));
    write_fully(fd, chunk.data(), got, shown);
  }
}

}  // namespace

bool is_tar_name(const std::string& path, size_t* stem) {
  std::string name = path;
  for (char& c : name)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  for (const std::string_view end :
       {".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz"})
    if (name.ends_with(end) && name.size() > end.size()) {
      if (stem != nullptr) *stem = name.size() - end.size();
      return true;
    }
  return false;
}

std::string unpacked_tar(const std::string& path, std::string& fault) {
  {
    const PosixFile file(path, Presence::listed);
    std::array<uint8_t, 8> first{};
    const int64_t got = file.read_some(0, first.data(), first.size());
    if (compression_of({first.data(), static_cast<size_t>(got)}).empty()) return path;
  }
  struct stat status {};
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), std::free);
  if (!real || ::stat(path.c_str(), &status) != 0) throw_errno("cannot read", path);
  const std::string identity = fmt::format("{}\n{}\n{}.{:09}", real.get(), status.st_size,
                                           status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
  const std::string stem =
      fmt::format("{}/unpacked/{}", data_dir(), sha256_hex(std::as_bytes(std::span(identity))).substr(0, 32));
  const std::string copy = stem + ".tar", damage = stem + ".fault";
  try {
    retrying(path, [&] {
      make_once(copy, [&](const std::string& temporary) {
        const std::string why = unpack(path, temporary, copy);
        if (!why.empty()) write_file_atomically(damage, why);
      });
    });
  } catch (const IoError& error) {
    throw IoError(
        fmt::format("cannot unpack: {}: {}; free some space there, or set DINO_DATA to a folder that "
                    "all ranks see",
                    path, error.what()));
  }
  if (path_exists(damage)) fault = read_text(damage);
  return copy;
}

}  // namespace dino
