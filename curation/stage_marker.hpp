// SPDX-License-Identifier: Apache-2.0
#pragma once
// OUT/stages/<stage>.json, written last: the stage is complete. It names the settings that the stage read,
// every file that it committed, with size and CRC32C, and the marker of the stage before, so that a stage
// that was done again with another result makes the later ones be done again too. Rank 0 only, unless it says
// collective.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "config.hpp"

namespace dino::curation {

struct StageFile {
  std::string path;  ///< below OUT
  int64_t bytes = 0;
  uint32_t crc = 0;
};
/// Size and checksum of a committed file; of an HDF5 file its seal tells them.
[[nodiscard]] StageFile stage_file_of(const std::string& out, const std::string& path);

struct StageMarker {
  std::vector<Setting> settings;  ///< stage_settings()
  std::string after;              ///< checksum of the marker before; empty for the first
  std::vector<StageFile> files;
  std::string crc;  ///< of this marker
};

void write_marker(const std::string& out, const std::string& stage, const StageMarker& marker);
/// None when the stage is not complete. DataError when the marker is damaged.
[[nodiscard]] std::optional<StageMarker> read_marker(const std::string& out, const std::string& stage);
/// DataError that names the first file that is gone, has another size or another checksum in its seal. Cheap:
/// reads 24 bytes a file.
void check_files(const std::string& out, const std::string& stage, const StageMarker& marker);
/// What to do about a damaged file of a stage.
[[nodiscard]] std::string do_again(const std::string& out, const std::string& stage);

/// Reads all of the files, which ranks share, and compares them. Collective; `stages` and `markers` are read
/// on rank 0. False when stopped early by a signal.
[[nodiscard]] bool check_contents(const std::string& out, const std::vector<std::string>& stages,
                                  const std::vector<StageMarker>& markers, const Communicator& world);

}  // namespace dino::curation
