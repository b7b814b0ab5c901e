// SPDX-License-Identifier: Apache-2.0
// Windows and OS/2 bitmaps: 1 to 32 bits, bit fields with alpha, run-length encoding of 4 and 8 bits. libvips
// reads them through ImageMagick only, where that is installed.
#include <algorithm>
#include <bit>

#include "imaging/decoders.hpp"

namespace dino::imaging {
namespace {

enum Compression : uint32_t { kPlain = 0, kRle8 = 1, kRle4 = 2, kFields = 3, kAlphaFields = 6 };

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
  uint32_t bits = 0, compression = kPlain;
  uint32_t red = 0, green = 0, blue = 0, alpha = 0;  // masks of 16- and 32-bit pixels
  [[nodiscard]] bool run_length() const { return compression == kRle8 || compression == kRle4; }
};

bool parse_header(Bytes b, BmpHeader& h) {
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
    h.bits = le16(b, 28);
  }
  if (header >= 40) {
    h.compression = le32(b, 30);
    h.palette_size = le32(b, 46);
  }
  if (h.palette_size == 0 && h.bits <= 8) h.palette_size = size_t{1} << h.bits;
  if (h.bits == 16) h.red = 0x7c00, h.green = 0x3e0, h.blue = 0x1f;
  if (h.bits == 32) h.red = 0xff0000, h.green = 0xff00, h.blue = 0xff;
  if (h.compression == kFields || h.compression == kAlphaFields) {
    // The masks are the last fields of larger headers, and follow one of 40 bytes.
    const bool with_alpha = header >= 56 || h.compression == kAlphaFields;
    if (b.size() < (with_alpha ? 70U : 66U)) return false;
    h.red = le32(b, 54), h.green = le32(b, 58), h.blue = le32(b, 62);
    if (with_alpha) h.alpha = le32(b, 66);
  }
  return true;
}

bool known(const BmpHeader& h) {
  switch (h.compression) {
    case kPlain:
      return h.bits == 1 || h.bits == 2 || h.bits == 4 || h.bits == 8 || h.bits == 16 || h.bits == 24 ||
             h.bits == 32;
    case kRle8:
      return h.bits == 8;
    case kRle4:
      return h.bits == 4;
    case kFields:
    case kAlphaFields:
      return h.bits == 16 || h.bits == 32;
    default:
      return false;
  }
}

uint8_t masked(uint32_t pixel, uint32_t mask) {
  if (mask == 0) return 0;
  const int shift = std::countr_zero(mask);
  const uint64_t maximum = mask >> shift;
  return static_cast<uint8_t>((uint64_t{(pixel & mask) >> shift} * 255 + maximum / 2) / maximum);
}

/// False when `index` is outside the palette.
bool put_index(Bytes b, const BmpHeader& h, size_t index, uint8_t* rgb) {
  const size_t at = h.palette + index * h.palette_entry;
  if (index >= h.palette_size || at + 3 > b.size()) return false;
  rgb[0] = b[at + 2], rgb[1] = b[at + 1], rgb[2] = b[at];
  return true;
}

/// One row of plain pixels, three or four channels.
bool read_row(Bytes b, const BmpHeader& h, size_t row, uint8_t* to) {
  const size_t channels = h.alpha != 0 ? 4 : 3;
  for (size_t x = 0; x < static_cast<size_t>(h.width); ++x, to += channels) {
    if (h.bits <= 8) {
      const size_t per_byte = 8 / h.bits;
      const unsigned shift = static_cast<unsigned>(8 - h.bits * (x % per_byte + 1));
      if (!put_index(b, h, b[row + x / per_byte] >> shift & ((1U << h.bits) - 1), to)) return false;
    } else if (h.bits == 24) {
      const size_t at = row + 3 * x;
      to[0] = b[at + 2], to[1] = b[at + 1], to[2] = b[at];
    } else {
      const uint32_t pixel = h.bits == 16 ? le16(b, row + 2 * x) : le32(b, row + 4 * x);
      to[0] = masked(pixel, h.red), to[1] = masked(pixel, h.green), to[2] = masked(pixel, h.blue);
      if (h.alpha != 0) to[3] = masked(pixel, h.alpha);
    }
  }
  return true;
}

/// A program that knows no alpha leaves its field 0 everywhere: the picture is opaque then.
void drop_empty_alpha(Image& image) {
  for (size_t i = 3; i < image.pixels.size(); i += 4) {
    if (image.pixels[i] != 0) return;
  }
  for (size_t i = 3; i < image.pixels.size(); i += 4) image.pixels[i] = 255;
}

/// Pairs of (count, index), or (0, code): end of line, end of picture, a step, or a row of plain pixels.
class RunLengthReader {
 public:
  RunLengthReader(Bytes bytes, const BmpHeader& h, Image& image)
      : bytes_(bytes), data_(bytes.subspan(h.data)), h_(h), image_(image), deep_(h.compression == kRle8) {}
  DecodeStatus read(DecodeNote& note) {
    for (int64_t y = 0; y < h_.height; ++y) {  // what no run covers has the first colour
      for (int64_t x = 0; x < h_.width; ++x) {
        if (!put_index(bytes_, h_, 0, image_.at(x, y))) return DecodeStatus::corrupt;
      }
    }
    while (at_ + 2 <= data_.size()) {
      const size_t count = data_[at_], value = data_[at_ + 1];
      at_ += 2;
      if (count > 0) {
        for (size_t i = 0; i < count; ++i) put(deep_ ? value : i % 2 == 0 ? value >> 4 : value & 15);
      } else if (value == 0) {
        x_ = 0;
        ++y_;
      } else if (value == 1) {
        return status_;
      } else if (value == 2) {
        if (at_ + 2 > data_.size()) break;
        x_ += data_[at_], y_ += data_[at_ + 1];
        at_ += 2;
      } else if (!plain(value)) {
        break;
      }
    }
    const bool whole = y_ >= h_.height || (y_ == h_.height - 1 && x_ >= h_.width);
    if (!whole) return DecodeStatus::truncated;
    note = DecodeNote::end_missing;
    return status_;
  }

 private:
  /// `count` plain pixels, padded to 16 bits.
  bool plain(size_t count) {
    const size_t bytes = deep_ ? count : (count + 1) / 2;
    if (at_ + bytes > data_.size()) return false;
    for (size_t i = 0; i < count; ++i) {
      const size_t value = data_[at_ + (deep_ ? i : i / 2)];
      put(deep_ ? value : i % 2 == 0 ? value >> 4 : value & 15);
    }
    at_ += bytes + bytes % 2;
    return true;
  }
  void put(size_t index) {
    if (x_ < h_.width && y_ < h_.height) {
      uint8_t* to = image_.at(x_, h_.top_down ? y_ : h_.height - 1 - y_);
      if (!put_index(bytes_, h_, index, to)) status_ = DecodeStatus::corrupt;
    }
    ++x_;
  }
  Bytes bytes_, data_;
  const BmpHeader& h_;
  Image& image_;
  bool deep_;
  size_t at_ = 0;
  int64_t x_ = 0, y_ = 0;
  DecodeStatus status_ = DecodeStatus::ok;
};

constexpr const char* kNoColour = "a pixel is outside the palette";

/// False, with the status set, when the pixels are cut off or leave the palette.
bool read_pixels(Bytes bytes, const BmpHeader& h, size_t stride, Decoded& out) {
  if (h.run_length()) {
    const DecodeStatus status = RunLengthReader(bytes, h, out.image).read(out.note);
    if (status != DecodeStatus::ok)
      fail(out, status, status == DecodeStatus::truncated ? kEndsEarly : kNoColour);
    return status == DecodeStatus::ok;
  }
  for (int64_t y = 0; y < h.height; ++y) {
    const size_t row = h.data + static_cast<size_t>(h.top_down ? y : h.height - 1 - y) * stride;
    if (!read_row(bytes, h, row, out.image.at(0, y))) {
      fail(out, DecodeStatus::corrupt, kNoColour);
      return false;
    }
  }
  return true;
}

}  // namespace

void decode_bmp(Bytes bytes, const DecodeOptions& options, Decoded& out) {
  BmpHeader h;
  if (!parse_header(bytes, h)) return fail(out, DecodeStatus::truncated, "the header is cut off");
  if (!accept_size(h.width, h.height, 3, options.limits, out)) return;
  if (!known(h)) {
    return fail(
        out, DecodeStatus::unsupported,
        "bitmap with " + std::to_string(h.bits) + " bits and compression " + std::to_string(h.compression));
  }
  const size_t stride = (static_cast<size_t>(h.width) * h.bits + 31) / 32 * 4;
  // The padding of the last row may be missing.
  const size_t needed =
      static_cast<size_t>(h.height - 1) * stride + (static_cast<size_t>(h.width) * h.bits + 7) / 8;
  if (h.data > bytes.size() || (!h.run_length() && bytes.size() - h.data < needed)) {
    return fail(out, DecodeStatus::truncated, kEndsEarly);
  }
  const int64_t channels = h.alpha != 0 ? 4 : 3;
  if (!accept_memory(0, channels, false, options, out)) return;
  out.image = Image{h.width, h.height, channels, {}};
  out.image.pixels.resize(static_cast<size_t>(h.width * h.height * channels));
  if (!read_pixels(bytes, h, stride, out)) return;
  if (channels == 4) drop_empty_alpha(out.image);
  finish(out, options, 1);
}

}  // namespace dino::imaging
