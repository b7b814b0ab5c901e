// SPDX-License-Identifier: Apache-2.0
#pragma once
// Compressed tars. An image in one cannot be read by its offset, so that the tar is unpacked once, to
// $DINO_DATA/unpacked (which all ranks must see), under a name of its path, size and time.

#include <string>

namespace dino {

/// `path` when the file is not compressed; else its unpacked copy, which is made where it is missing. What
/// could not be unpacked of a damaged file is told in `fault`. DataError when it unpacks to far more than a
/// tar of images would; IoError when the copy cannot be written.
[[nodiscard]] std::string unpacked_tar(const std::string& path, std::string& fault);

/// Does the name end as those of tars do: .tar, .tar.gz, .tgz, .tar.zst, ...? Then the bytes before that.
[[nodiscard]] bool is_tar_name(const std::string& path, size_t* stem = nullptr);

}  // namespace dino
