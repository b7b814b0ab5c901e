// SPDX-License-Identifier: Apache-2.0
// Own readers of the two uncompressed formats: Netpbm (P1..P6) and Windows bitmaps.
#include <algorithm>
#include <bit>
#include <cstring>

#include "imaging/decoders.hpp"

namespace dino::imaging {
namespace {

class PnmText {
 public:
  PnmText(Bytes bytes, size_t position) : bytes_(bytes), position_(position) {}
  /// The next unsigned number, after blanks and comments; -1 at the end or at anything else.
  int64_t number() {
    skip();
    if (position_ >= bytes_.size() || !digit(bytes_[position_])) return -1;
    int64_t value = 0;
    while (position_ < bytes_.size() && digit(bytes_[position_])) {
      value = value * 10 + (bytes_[position_++] - '0');
      if (value > int64_t{1} << 40) return -1;
    }
    return value;
  }
  /// The next digit of an ASCII bitmap, whose digits may touch.
  int64_t bit() {
    skip();
    if (position_ >= bytes_.size() || (bytes_[position_] != '0' && bytes_[position_] != '1')) return -1;
    return bytes_[position_++] - '0';
  }
  [[nodiscard]] size_t position() const { return position_; }
  [[nodiscard]] bool at_end() const { return position_ >= bytes_.size(); }

 private:
  static bool digit(uint8_t c) { return c >= '0' && c <= '9'; }
  static bool blank(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
  void skip() {
    while (position_ < bytes_.size()) {
      if (bytes_[position_] == '#') {
        while (position_ < bytes_.size() && bytes_[position_] != '\n') ++position_;
      } else if (blank(bytes_[position_])) {
        ++position_;
      } else {
        return;
      }
    }
  }
  Bytes bytes_;
  size_t position_;
};

void put(Image& image, size_t sample, size_t samples_per_pixel, uint8_t value) {
  if (samples_per_pixel == 3) {
    image.pixels[sample] = value;
  } else {
    std::memset(image.pixels.data() + sample * 3, value, 3);
  }
}

uint8_t to_8_bits(int64_t value, int64_t maximum) {
  return static_cast<uint8_t>((std::min(value, maximum) * 255 + maximum / 2) / maximum);
}

bool read_ascii(PnmText& text, int kind, int64_t maximum, size_t samples, size_t per_pixel, Decoded& out) {
  for (size_t i = 0; i < samples; ++i) {
    const int64_t value = kind == 1 ? text.bit() : text.number();
    if (value < 0) {
      const bool end = text.at_end();
      fail(out, end ? DecodeStatus::truncated : DecodeStatus::corrupt,
           end ? "the file ends early" : "a sample is not a number");
      return false;
    }
    put(out.image, i, per_pixel, kind == 1 ? (value == 0 ? 255 : 0) : to_8_bits(value, maximum));
  }
  return true;
}

void read_binary(Bytes data, int kind, int64_t maximum, size_t samples, size_t per_pixel, Image& image) {
  if (kind == 4) {
    const size_t width = static_cast<size_t>(image.width), stride = (width + 7) / 8;
    for (size_t i = 0; i < samples; ++i) {
      const size_t x = i % width, y = i / width;
      put(image, i, 1, (data[y * stride + x / 8] >> (7 - x % 8) & 1) != 0 ? 0 : 255);
    }
    return;
  }
  for (size_t i = 0; i < samples; ++i) {
    const int64_t value = maximum < 256 ? data[i] : int64_t{data[2 * i]} << 8 | data[2 * i + 1];
    put(image, i, per_pixel, maximum == 255 ? static_cast<uint8_t>(value) : to_8_bits(value, maximum));
  }
}

uint32_t le16(Bytes b, size_t at) {
  return b[at] | static_cast<uint32_t>(b[at + 1]) << 8;
}
uint32_t le32(Bytes b, size_t at) {
  return le16(b, at) | le16(b, at + 2) << 16;
}

struct BmpHeader {
  int64_t width = 0, height = 0;
  bool top_down = false;
  size_t data = 0, palette = 0, palette_entry = 4, palette_size = 0;
  uint32_t bits = 0, compression = 0;
  uint32_t red = 0, green = 0, blue = 0;  // masks of 16- and 32-bit pixels
};

bool parse_bmp_header(Bytes b, BmpHeader& h) {
  if (b.size() < 26) return false;
  const size_t header = le32(b, 14);
  if (b.size() < 14 + header) return false;
  h.data = le32(b, 10);
  h.palette = 14 + header;
  if (header == 12) {
    h.width = le16(b, 18), h.height = le16(b, 20), h.bits = le16(b, 24);
    h.palette_entry = 3;
  } else {
    h.width = static_cast<int32_t>(le32(b, 18));
    h.height = static_cast<int32_t>(le32(b, 22));
    h.top_down = h.height < 0;
    if (h.top_down) h.height = -h.height;
    h.bits = le16(b, 28), h.compression = le32(b, 30);
    h.palette_size = le32(b, 46);
  }
  if (h.palette_size == 0 && h.bits <= 8) h.palette_size = size_t{1} << h.bits;
  if (h.bits == 16) h.red = 0x7c00, h.green = 0x3e0, h.blue = 0x1f;
  if (h.bits == 32) h.red = 0xff0000, h.green = 0xff00, h.blue = 0xff;
  if (h.compression == 3) {
    if (b.size() < 66) return false;
    h.red = le32(b, 54), h.green = le32(b, 58), h.blue = le32(b, 62);
  }
  return true;
}

uint8_t masked(uint32_t pixel, uint32_t mask) {
  if (mask == 0) return 0;
  const int shift = std::countr_zero(mask);
  const uint64_t maximum = mask >> shift;
  return static_cast<uint8_t>((uint64_t{(pixel & mask) >> shift} * 255 + maximum / 2) / maximum);
}

bool read_bmp_row(Bytes b, const BmpHeader& h, size_t row, uint8_t* rgb) {
  for (size_t x = 0; x < static_cast<size_t>(h.width); ++x, rgb += 3) {
    if (h.bits <= 8) {
      const size_t per_byte = 8 / h.bits;
      const unsigned shift = static_cast<unsigned>(8 - h.bits * (x % per_byte + 1));
      const size_t index = b[row + x / per_byte] >> shift & ((1U << h.bits) - 1);
      const size_t at = h.palette + index * h.palette_entry;
      if (index >= h.palette_size || at + 3 > b.size()) return false;
      rgb[0] = b[at + 2], rgb[1] = b[at + 1], rgb[2] = b[at];
    } else if (h.bits == 24) {
      const size_t at = row + 3 * x;
      rgb[0] = b[at + 2], rgb[1] = b[at + 1], rgb[2] = b[at];
    } else {
      const uint32_t pixel = h.bits == 16 ? le16(b, row + 2 * x) : le32(b, row + 4 * x);
      rgb[0] = masked(pixel, h.red), rgb[1] = masked(pixel, h.green), rgb[2] = masked(pixel, h.blue);
    }
  }
  return true;
}

}  // namespace

void decode_pnm(Bytes bytes, const DecodeOptions& options, Decoded& out) {
  const int kind = bytes[1] - '0';
  PnmText text(bytes, 2);
  const int64_t width = text.number(), height = text.number();
  const bool bitmap = kind == 1 || kind == 4;
  const int64_t maximum = bitmap ? 1 : text.number();
  if (width < 0 || height < 0 || maximum < 1 || maximum > 65535) {
    return fail(out, text.at_end() ? DecodeStatus::truncated : DecodeStatus::corrupt,
                "the header has no valid width, height and maximum");
  }
  if (!accept_size(width, height, 3, options.limits, out)) return;
  const size_t per_pixel = kind == 3 || kind == 6 ? 3 : 1;
  const size_t samples = static_cast<size_t>(width * height) * per_pixel;
  size_t needed =
      kind == 4 ? static_cast<size_t>((width + 7) / 8 * height) : samples * (maximum < 256 ? 1 : 2);
  if (kind <= 3) needed = samples;  // at least one character each
  const size_t start = text.position() + (kind > 3 ? 1 : 0);
  // Before the memory is taken: a header of 20 bytes may promise gigabytes.
  if (start > bytes.size() || bytes.size() - start < needed) {
    return fail(out, DecodeStatus::truncated, "the file ends early");
  }
  out.image = Image{width, height, 3, {}};
  out.image.pixels.resize(static_cast<size_t>(width * height * 3));
  if (kind <= 3) {
    if (!read_ascii(text, kind, maximum, samples, per_pixel, out)) return;
  } else {
    read_binary(bytes.subspan(start), kind, maximum, samples, per_pixel, out.image);
  }
  finish(out, options, 1);
}

void decode_bmp(Bytes bytes, const DecodeOptions& options, Decoded& out) {
  BmpHeader h;
  if (!parse_bmp_header(bytes, h)) return fail(out, DecodeStatus::truncated, "the header is cut off");
  if (!accept_size(h.width, h.height, 3, options.limits, out)) return;
  const bool known =
      h.bits == 1 || h.bits == 4 || h.bits == 8 || h.bits == 16 || h.bits == 24 || h.bits == 32;
  const bool fields = h.compression == 3 && (h.bits == 16 || h.bits == 32);
  if (!known || (h.compression != 0 && !fields)) {
    return fail(
        out, DecodeStatus::unsupported,
        "bitmap with " + std::to_string(h.bits) + " bits and compression " + std::to_string(h.compression));
  }
  const size_t stride = (static_cast<size_t>(h.width) * h.bits + 31) / 32 * 4;
  if (h.data > bytes.size() || (bytes.size() - h.data) / stride < static_cast<size_t>(h.height)) {
    return fail(out, DecodeStatus::truncated, "the file ends early");
  }
  out.image = Image{h.width, h.height, 3, {}};
  out.image.pixels.resize(static_cast<size_t>(h.width * h.height * 3));
  for (int64_t y = 0; y < h.height; ++y) {
    const size_t row = h.data + static_cast<size_t>(h.top_down ? y : h.height - 1 - y) * stride;
    if (!read_bmp_row(bytes, h, row, out.image.at(0, y))) {
      return fail(out, DecodeStatus::corrupt, "a pixel is outside the palette");
    }
  }
  finish(out, options, 1);
}

}  // namespace dino::imaging
