// SPDX-License-Identifier: Apache-2.0
#include "datasets/prepare.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/error.hpp"
#include "base/log.hpp"
#include "datasets/archive_reader.hpp"
#include "storage/files.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

uint32_t big_endian(const std::vector<uint8_t>& bytes, size_t at) {
  return static_cast<uint32_t>(bytes[at]) << 24 | static_cast<uint32_t>(bytes[at + 1]) << 16 |
         static_cast<uint32_t>(bytes[at + 2]) << 8 | bytes[at + 3];
}

}  // namespace

void make_once(const std::string& out, const std::function<void(const std::string&)>& fill) {
  make_folders(std::filesystem::path(out).parent_path().string());
  const std::string lock_path = out + ".lock";
  const int lock = open_without_links(lock_path, O_RDWR | O_CREAT);
  // Without flock (some network file systems) all may write: the bytes are equal, and the rename is atomic.
  while (::flock(lock, LOCK_EX) != 0 && errno == EINTR) {
  }
  try {
    if (!path_exists(out)) {
      log::info(fmt::format("preparing {}: this is done once", out));
      remove_leftovers_of(out);
      commit_file(out, fill);
    }
  } catch (...) {
    ::close(lock);
    throw;
  }
  ::close(lock);
}

void prepare_tar(const std::string& out, const std::function<void(TarWriter&)>& fill) {
  make_once(out, [&](const std::string& temporary) {
    TarWriter tar(temporary);
    fill(tar);
    tar.close();
  });
}

std::vector<uint8_t> with_header(const std::string& header, std::span<const uint8_t> data) {
  std::vector<uint8_t> bytes(header.begin(), header.end());
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

void prepare_idx(const std::string& images_path, const std::string& labels_path,
                 const std::vector<std::string>& classes, const std::string& out) {
  prepare_tar(out, [&](TarWriter& tar) {
    const auto images = gunzip(images_path), labels = gunzip(labels_path);
    if (images.size() < 16 || big_endian(images, 0) != 0x803)
      throw DataError(fmt::format("bad IDX file: {}: not 8-bit images", images_path));
    if (labels.size() < 8 || big_endian(labels, 0) != 0x801)
      throw DataError(fmt::format("bad IDX file: {}: not 8-bit labels", labels_path));
    const uint64_t count = big_endian(images, 4), rows = big_endian(images, 8),
                   columns = big_endian(images, 12);
    if (rows == 0 || columns == 0 || rows > 65535 || columns > 65535 ||
        images.size() != 16 + count * rows * columns || labels.size() != 8 + count ||
        count != big_endian(labels, 4))
      throw DataError(
          fmt::format("bad IDX file: {}: its size does not fit its header or its labels", images_path));
    const std::string header = fmt::format("P5\n{} {}\n255\n", columns, rows);
    for (uint64_t i = 0; i < count; ++i) {
      const uint8_t label = labels[8 + i];
      if (label >= classes.size())
        throw DataError(fmt::format("bad IDX file: {}: class {} of image {}", labels_path, label, i));
      tar.add(fmt::format("{}/{:05}.pgm", classes[label], i),
              with_header(header, std::span(images).subspan(16 + i * rows * columns, rows * columns)));
    }
  });
}

}  // namespace dino
