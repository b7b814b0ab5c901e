// SPDX-License-Identifier: Apache-2.0
// What files say about which way is up: EXIF, XMP, and the text chunks of PNG that hold either.
#include <zlib.h>

#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "imaging/decoders.hpp"

namespace dino::imaging {
namespace {

constexpr size_t kMaxText = size_t{1} << 20;  ///< of an inflated text chunk: metadata beyond is passed over

uint32_t big32(Bytes b, size_t at) {
  return static_cast<uint32_t>(b[at]) << 24 | static_cast<uint32_t>(b[at + 1]) << 16 |
         static_cast<uint32_t>(b[at + 2]) << 8 | b[at + 3];
}

/// At most kMaxText bytes of a zlib stream; what was there before its end or a fault.
std::vector<uint8_t> inflate_text(Bytes packed) {
  std::vector<uint8_t> out(std::min(kMaxText, packed.size() * 32 + 1024));
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) return {};
  stream.next_in = const_cast<Bytef*>(packed.data());
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(out.size());
  (void)inflate(&stream, Z_FINISH);
  out.resize(out.size() - stream.avail_out);
  inflateEnd(&stream);
  return out;
}

/// "\nexif\n  1234\n" and the block in hexadecimal digits, in lines.
int raw_profile_orientation(Bytes text) {
  size_t at = 0;
  for (int line = 0; line < 3; ++line) {
    while (at < text.size() && text[at] != '\n') ++at;
    if (at++ >= text.size()) return 0;
  }
  std::vector<uint8_t> block;
  int high = -1;
  for (; at < text.size(); ++at) {
    const uint8_t c = text[at];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) continue;
    if (high >= 0) block.push_back(static_cast<uint8_t>(high << 4 | digit));
    high = high < 0 ? digit : -1;
  }
  Bytes exif(block);
  if (exif.size() > 6 && std::memcmp(exif.data(), "Exif\0", 6) == 0) exif = exif.subspan(6);
  return exif_orientation(exif);
}

struct TextChunk {
  std::string_view keyword;
  Bytes text;
  bool packed = false;
};

/// tEXt, zTXt and iTXt; an empty keyword for anything else.
TextChunk read_text_chunk(std::string_view type, Bytes data) {
  const auto* text = reinterpret_cast<const char*>(data.data());
  const std::string_view all(text, data.size());
  const size_t end = all.find('\0');
  if ((type != "tEXt" && type != "zTXt" && type != "iTXt") || end == std::string_view::npos) return {};
  TextChunk out{all.substr(0, end), data.subspan(end + 1), type == "zTXt"};
  if (type == "tEXt") return out;
  if (out.text.empty()) return {};
  if (type == "zTXt") {  // one byte: the method
    out.text = out.text.subspan(1);
    return out;
  }
  // Two bytes (packed or not, the method), then language and translated keyword, each ended by a zero.
  if (out.text.size() < 2) return {};
  out.packed = out.text[0] != 0;
  out.text = out.text.subspan(2);
  for (int i = 0; i < 2; ++i) {
    size_t zero = 0;
    while (zero < out.text.size() && out.text[zero] != 0) ++zero;
    if (zero >= out.text.size()) return {};
    out.text = out.text.subspan(zero + 1);
  }
  return out;
}

}  // namespace

int exif_orientation(Bytes tiff) {
  if (tiff.size() < 14) return 0;
  const bool little = tiff[0] == 'I' && tiff[1] == 'I';
  if (!little && !(tiff[0] == 'M' && tiff[1] == 'M')) return 0;
  const auto u16 = [&](size_t at) -> uint32_t {
    return little ? tiff[at] | static_cast<uint32_t>(tiff[at + 1]) << 8
                  : static_cast<uint32_t>(tiff[at]) << 8 | tiff[at + 1];
  };
  const auto u32 = [&](size_t at) -> uint32_t {
    return little ? u16(at) | u16(at + 2) << 16 : u16(at) << 16 | u16(at + 2);
  };
  if (u16(2) != 42) return 0;
  const size_t ifd = u32(4);
  // Only the first directory is read: a chain of directories may loop.
  if (ifd < 8 || ifd > tiff.size() - 2) return 0;
  const size_t entries = u16(ifd);
  for (size_t i = 0; i < entries; ++i) {
    const size_t at = ifd + 2 + 12 * i;
    if (at + 12 > tiff.size()) return 0;
    if (u16(at) != 0x0112) continue;
    const uint32_t type = u16(at + 2);
    if ((type != 3 && type != 4) || u32(at + 4) < 1) return 0;
    const uint32_t value = type == 3 ? u16(at + 8) : u32(at + 8);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 0;
  }
  return 0;
}

int xmp_orientation(Bytes packet) {
  static constexpr std::string_view name = "tiff:Orientation";
  const std::string_view text(reinterpret_cast<const char*>(packet.data()), packet.size());
  // An attribute (="6") or an element (>6<).
  for (size_t at = text.find(name); at != std::string_view::npos; at = text.find(name, at + 1)) {
    std::string_view rest = text.substr(at + name.size(), 3);
    const bool attribute = rest.size() >= 2 && rest[0] == '=' && (rest[1] == '"' || rest[1] == '\'');
    if (!attribute && (rest.empty() || rest[0] != '>')) continue;
    rest.remove_prefix(attribute ? 2 : 1);
    if (!rest.empty() && rest[0] >= '1' && rest[0] <= '8') return rest[0] - '0';
  }
  return 0;
}

int png_text_orientation(Bytes png) {
  int from_xmp = 0;
  for (size_t at = 8; at + 12 <= png.size();) {
    const size_t length = big32(png, at);
    if (length > png.size() - at - 12) break;
    const std::string_view type(reinterpret_cast<const char*>(png.data()) + at + 4, 4);
    const TextChunk chunk = read_text_chunk(type, png.subspan(at + 8, length));
    at += 12 + length;
    const bool exif = chunk.keyword == "Raw profile type exif", xmp = chunk.keyword == "XML:com.adobe.xmp";
    if (!exif && !(xmp && from_xmp == 0)) continue;
    std::vector<uint8_t> inflated;
    if (chunk.packed) inflated = inflate_text(chunk.text);
    const Bytes text = chunk.packed ? Bytes(inflated) : chunk.text;
    const int found = exif ? raw_profile_orientation(text) : xmp_orientation(text);
    if (exif && found > 0) return found;
    if (xmp) from_xmp = found;
  }
  return from_xmp;
}

}  // namespace dino::imaging
