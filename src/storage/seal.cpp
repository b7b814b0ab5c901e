// SPDX-License-Identifier: Apache-2.0
#include "storage/seal.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

#include "base/error.hpp"
#include "base/working.hpp"
#include "storage/files.hpp"
#include "storage/posix_file.hpp"

namespace dino {
namespace {

constexpr std::string_view kSealMagic = "dinoCRC1";
constexpr size_t kSizeAt = 8, kCrcAt = 16, kOwnAt = 20;
using SealBytes = std::array<std::byte, kSealBytes>;

SealBytes encode(int64_t bytes, uint32_t crc) {
  SealBytes seal{};
  std::memcpy(seal.data(), kSealMagic.data(), kSealMagic.size());
  std::memcpy(seal.data() + kSizeAt, &bytes, sizeof bytes);
  std::memcpy(seal.data() + kCrcAt, &crc, sizeof crc);
  const uint32_t own = crc32c(std::span(seal).first(kOwnAt));
  std::memcpy(seal.data() + kOwnAt, &own, sizeof own);
  return seal;
}

std::optional<Seal> decode(const PosixFile& file) {
  const int64_t content = file.size() - kSealBytes;
  SealBytes bytes{};
  if (content < 0 || file.read_some(content, bytes.data(), kSealBytes) != kSealBytes) return std::nullopt;
  uint32_t crc = 0;
  std::memcpy(&crc, bytes.data() + kCrcAt, sizeof crc);
  if (bytes != encode(content, crc)) return std::nullopt;
  return Seal{content, crc, crc32c(bytes, crc)};
}

uint32_t crc_of(const PosixFile& file, int64_t begin, int64_t bytes) {
  std::vector<std::byte> buffer(static_cast<size_t>(std::min<int64_t>(bytes, 1 << 20)));
  uint32_t crc = 0;
  for (int64_t offset = 0; offset < bytes;) {
    const auto part = std::min<int64_t>(bytes - offset, static_cast<int64_t>(buffer.size()));
    file.read_exactly(begin + offset, buffer.data(), part);
    crc = crc32c(std::span(std::as_const(buffer)).first(static_cast<size_t>(part)), crc);
    offset += part;
    still_working();
  }
  return crc;
}

[[noreturn]] void fail_damaged(const std::string& path, const std::string& why, const std::string& remedy) {
  throw DataError(fmt::format("damaged file: {}: {}; {}", path, why, remedy));
}

/// Messages name `shown`.
void append_seal(const std::string& temporary, const std::string& shown) {
  const PosixFile file(temporary);
  const SealBytes seal = encode(file.size(), crc_of(file, 0, file.size()));
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) throw_errno("cannot write", shown);
  try {
    write_fully(fd, seal.data(), kSealBytes, shown);
  } catch (...) {
    ::close(fd);
    throw;
  }
  if (::close(fd) != 0)
    throw IoError(fmt::format("cannot write: {}: {}", shown, std::system_category().message(errno)));
}

/// Where the member "crc32c" begins that ends the text; npos where there is none.
size_t json_seal_at(std::string_view text) {
  constexpr std::string_view kEnd = "\"\n}\n";
  const size_t length = sealed_json("{\n \"a\": 1\n}").size() - std::string_view("{\n \"a\": 1").size();
  if (text.size() < length || !text.ends_with(kEnd)) return std::string_view::npos;
  const size_t at = text.size() - length;
  return text.substr(at).starts_with(",\n \"crc32c\": \"") ? at : std::string_view::npos;
}

}  // namespace

std::optional<Seal> read_seal(const std::string& path) {
  return decode(PosixFile(path));
}

void check_seal(const std::string& path, const std::string& remedy) {
  const PosixFile file(path);
  const std::optional<Seal> seal = decode(file);
  if (!seal) fail_damaged(path, "it does not end in its checksum, so that it was cut off or changed", remedy);
  require_seal(path, *seal, crc_of(file, 0, seal->bytes), remedy);
}

bool seal_holds(const std::string& path) {
  const PosixFile file(path);
  const std::optional<Seal> seal = decode(file);
  return seal && crc_of(file, 0, seal->bytes) == seal->crc;
}

uint32_t crc32c_part(const std::string& path, int64_t offset, int64_t bytes) {
  return crc_of(PosixFile(path), offset, bytes);
}

void require_seal(const std::string& path, const Seal& seal, uint32_t crc, const std::string& remedy) {
  if (crc != seal.crc)
    fail_damaged(path, fmt::format("its checksum is {}, {} when it was written", hex32(crc), hex32(seal.crc)),
                 remedy);
}

void commit_hdf5(const std::string& path, const std::function<void(Hdf5File&)>& write) {
  commit_file(path, [&](const std::string& temporary) {
    Hdf5File file = Hdf5File::create(temporary);
    write(file);
    file.close();
    append_seal(temporary, path);
  });
}

Hdf5File open_sealed(const std::string& path, const std::string& remedy) {
  check_seal(path, remedy);
  return Hdf5File::open_verified(path);
}

Hdf5File open_checked(const std::string& path, const std::string& remedy) {
  if (read_seal(path)) check_seal(path, remedy);
  return Hdf5File::open(path);
}

std::string sealed_json(std::string_view object) {
  while (object.ends_with('\n')) object.remove_suffix(1);
  DINO_CHECK(object.ends_with("\n}"), "only an indented JSON object can be sealed");
  object.remove_suffix(2);
  return fmt::format("{},\n \"crc32c\": \"{}\"\n}}\n", object,
                     hex32(crc32c(std::as_bytes(std::span(object)))));
}

void check_sealed_json(std::string_view text, const std::string& path, const std::string& remedy) {
  const size_t at = json_seal_at(text);
  if (at == std::string_view::npos)
    fail_damaged(path, "it does not end in its checksum, so that it was cut off or changed", remedy);
  if (text != sealed_json(std::string(text.substr(0, at)) + "\n}"))
    fail_damaged(path, "its checksum does not fit its text, so that it was changed or is damaged", remedy);
}

bool has_json_seal(std::string_view text) {
  return json_seal_at(text) != std::string_view::npos;
}

}  // namespace dino
