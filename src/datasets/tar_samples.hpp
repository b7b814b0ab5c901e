// SPDX-License-Identifier: Apache-2.0
#pragma once
// Which members of a tar belong together. An image's key is its name without the last extension; a sidecar
// belongs to the image of the longest key that its own name begins with, up to a dot: d/0.05.json goes with
// d/0.05.png, a.cls.txt with a.jpg. Readers that cut at the first dot agree wherever keys hold no dot.

#include <cstdint>
#include <string>
#include <vector>

#include "storage/posix_file.hpp"
#include "storage/tar.hpp"

namespace dino {

/// Sidecars beyond this are left out.
constexpr int64_t kMaxSidecar = int64_t{16} << 20;

struct TarImage {
  size_t member = 0;      ///< index into the scanned members
  std::string key;        ///< bytes as stored
  std::string extension;  ///< lower case; where the name has none of an image, what the content says
  bool named = true;      ///< the name has an image's extension
};

struct TarSidecar {
  size_t member = 0, image = 0;
  std::string extension;  ///< what follows the key, lower case: json, cls, seg.png
};

/// Reading order in all lists. Every member is in exactly one of images, sidecars (there once for each image
/// that it belongs to), orphans, hidden and refused.
struct TarSamples {
  std::vector<TarImage> images;
  std::vector<TarSidecar> sidecars;
  std::vector<size_t> orphans;  ///< neither images nor beside one
  std::vector<size_t> hidden;   ///< what desktops leave: ._name of macOS, __MACOSX/, .DS_Store, Thumbs.db
  std::vector<size_t> refused;  ///< sidecars that are too large, or of a kind that their image has already
  std::vector<size_t> shared;   ///< images whose key an image before them has
};

/// Reads the first bytes of members that no name tells.
[[nodiscard]] TarSamples group_members(const PosixFile& file, const std::vector<TarMember>& members);

/// Is it a file that macOS or Windows leaves beside what one works with? By the path.
[[nodiscard]] bool is_desktop_file(std::string_view path);

}  // namespace dino
