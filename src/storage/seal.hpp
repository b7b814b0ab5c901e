// SPDX-License-Identifier: Apache-2.0
#pragma once
// Files that carry their own checksum, for everything that a later stage or command reads. A binary file
// (HDF5) ends in 24 bytes that HDF5 readers ignore: "dinoCRC1", the size and the CRC32C of what stands before
// them, and the CRC32C of these 20 bytes. A JSON object ends in a member "crc32c", the CRC32C of the text
// before it.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "storage/hdf5.hpp"

namespace dino {

struct Seal {
  int64_t bytes = 0;   ///< of the content
  uint32_t crc = 0;    ///< of the content
  uint32_t whole = 0;  ///< CRC32C of content and seal: what crc32c_file gives
};
inline constexpr int64_t kSealBytes = 24;

/// What the file claims; none where it ends otherwise or the seal itself is damaged. Reads 24 bytes.
[[nodiscard]] std::optional<Seal> read_seal(const std::string& path);
/// Compares the whole content with the seal. DataError "damaged file: PATH: why; REMEDY".
void check_seal(const std::string& path, const std::string& remedy);
[[nodiscard]] bool seal_holds(const std::string& path);

/// For ranks that share the bytes of one file: CRC32C of a part of it, and the comparison of all of it.
[[nodiscard]] uint32_t crc32c_part(const std::string& path, int64_t offset, int64_t bytes);
void require_seal(const std::string& path, const Seal& seal, uint32_t crc, const std::string& remedy);

/// Commits an HDF5 file with a seal; `write` need not close it.
void commit_hdf5(const std::string& path, const std::function<void(Hdf5File&)>& write);
/// A file of this program's own: compared with its seal, then read in this process.
[[nodiscard]] Hdf5File open_sealed(const std::string& path, const std::string& remedy);

/// A file that may come from anywhere: compared where it has a seal, and read by another process.
[[nodiscard]] Hdf5File open_checked(const std::string& path, const std::string& remedy);

/// `object` is the text of a JSON object with a member or more, as dump(1) gives it.
[[nodiscard]] std::string sealed_json(std::string_view object);
/// DataError when the text is not what was sealed.
void check_sealed_json(std::string_view text, const std::string& path, const std::string& remedy);
/// Whether the text claims to be sealed.
[[nodiscard]] bool has_json_seal(std::string_view text);

}  // namespace dino
