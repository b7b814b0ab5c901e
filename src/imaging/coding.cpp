// SPDX-License-Identifier: Apache-2.0
#include "imaging/coding.hpp"

#include <algorithm>
#include <cstring>

namespace dino {
namespace {

using Bytes = std::span<const uint8_t>;

bool has(Bytes bytes, uint64_t at, std::string_view text) {
  return at <= bytes.size() && bytes.size() - at >= text.size() &&
         std::memcmp(bytes.data() + at, text.data(), text.size()) == 0;
}

/// `size` bytes at `at` as an unsigned number; false where the file ends before.
bool number(Bytes bytes, uint64_t at, size_t size, bool big_endian, uint64_t& value) {
  if (at > bytes.size() || bytes.size() - at < size) return false;
  value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | bytes[at + (big_endian ? i : size - 1 - i)];
  return true;
}

/// RIFF container (RFC 9649): the picture is a chunk "VP8 " or "VP8L", in an animation inside "ANMF" behind
/// 16 bytes of the frame's header.
Coding webp_coding(Bytes bytes) {
  uint64_t at = 12, size = 0;
  while (number(bytes, at + 4, 4, false, size)) {
    if (has(bytes, at, "VP8L")) return Coding::lossless;
    if (has(bytes, at, "VP8 ")) return Coding::lossy;
    at += has(bytes, at, "ANMF") ? 8 + 16 : 8 + size + size % 2;
  }
  return Coding::unknown;
}

/// Tag 259 of the first directory (TIFF 6.0, section 2; BigTIFF).
Coding tiff_coding(Bytes bytes) {
  const bool big = has(bytes, 0, "MM");
  uint64_t version = 0, directory = 0, entries = 0;
  if (!number(bytes, 2, 2, big, version)) return Coding::unknown;
  const bool wide = version == 43;
  if (!number(bytes, wide ? 8 : 4, wide ? 8 : 4, big, directory) ||
      !number(bytes, directory, wide ? 8 : 2, big, entries) || directory > bytes.size())
    return Coding::unknown;
  const uint64_t first = directory + (wide ? 8 : 2), step = wide ? 20 : 12;
  for (uint64_t i = 0; i < std::min<uint64_t>(entries, 65'535); ++i) {
    uint64_t tag = 0, compression = 0;
    if (!number(bytes, first + i * step, 2, big, tag)) return Coding::unknown;
    if (tag != 259) continue;
    if (!number(bytes, first + i * step + (wide ? 12 : 8), 2, big, compression)) return Coding::unknown;
    switch (compression) {
      case 6:  // JPEG, old style
      case 7:
        return Coding::jpeg;
      case 34'712:  // JPEG 2000
      case 50'001:  // WebP
      case 50'002:  // JPEG XL
        return Coding::lossy;
      default:
        return Coding::lossless;
    }
  }
  return Coding::lossless;  // no tag: not compressed
}

/// The marker COD (ISO/IEC 15444-1, A.6.1): its tenth byte behind the length names the wavelet, 1 = 5/3.
Coding jp2_coding(Bytes bytes) {
  static constexpr std::string_view cod = "\xff\x52";
  const auto found = std::search(bytes.begin(), bytes.end(), cod.begin(), cod.end(),
                                 [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); });
  const auto at = static_cast<uint64_t>(found - bytes.begin());
  uint64_t wavelet = 0;
  if (!number(bytes, at + 13, 1, true, wavelet)) return Coding::unknown;
  return wavelet == 1 ? Coding::lossless : Coding::lossy;
}

}  // namespace

const std::vector<std::string>& coding_names() {
  static const std::vector<std::string> names = {"unknown", "jpeg", "lossy", "palette", "lossless"};
  return names;
}

Coding coding_of(std::span<const uint8_t> bytes, std::string_view format) {
  if (format == "jpeg") return Coding::jpeg;
  if (format == "png" || format == "bmp" || format == "pbm" || format == "pgm" || format == "ppm")
    return Coding::lossless;
  if (format == "gif") return Coding::palette;
  if (format == "webp") return webp_coding(bytes);
  if (format == "tiff") return tiff_coding(bytes);
  if (format == "jp2") return jp2_coding(bytes);
  if (format == "avif" || format == "heic" || format == "jxl") return Coding::lossy;
  return Coding::unknown;
}

}  // namespace dino
