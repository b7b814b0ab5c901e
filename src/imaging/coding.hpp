// SPDX-License-Identifier: Apache-2.0
#pragma once
// How much of a picture its file's coding keeps, which decides between copies of equal size.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

/// From what loses most to what loses nothing. The numbers are written into ledgers: they are never reused.
enum class Coding : uint8_t {
  unknown = 0,   ///< not decoded, or a coding that the file does not tell
  jpeg = 1,      ///< JPEG, and TIFF that holds it
  lossy = 2,     ///< the newer lossy codings: WebP, AVIF, HEIC, JPEG XL, JPEG 2000 with its 9/7 wavelet
  palette = 3,   ///< GIF: exact, but of 256 colours
  lossless = 4,  ///< PNG, BMP, PNM, TIFF otherwise, WebP "VP8L", JPEG 2000 with its 5/3 wavelet
};
[[nodiscard]] const std::vector<std::string>& coding_names();

/// Told from the headers of the file: `format` is Decoded::format. AVIF, HEIC and JPEG XL can be lossless and
/// hardly ever are: they count as lossy. Any bytes are safe; what is cut off is `unknown`.
[[nodiscard]] Coding coding_of(std::span<const uint8_t> bytes, std::string_view format);

}  // namespace dino
