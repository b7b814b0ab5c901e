// SPDX-License-Identifier: Apache-2.0
// Netpbm (P1..P6), which is not compressed.
#include <algorithm>
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
  if (!accept_memory(0, 3, false, options, out)) return;
  out.image = Image{width, height, 3, {}};
  out.image.pixels.resize(static_cast<size_t>(width * height * 3));
  if (kind <= 3) {
    if (!read_ascii(text, kind, maximum, samples, per_pixel, out)) return;
  } else {
    read_binary(bytes.subspan(start), kind, maximum, samples, per_pixel, out.image);
  }
  finish(out, options, 1);
}

void decode_pnm_plane(Bytes bytes, const DecodeOptions& options, Decoded& out,
                      std::vector<uint16_t>& samples) {
  PnmText text(bytes, 2);
  const int64_t width = text.number(), height = text.number(), maximum = text.number();
  if (width < 0 || height < 0 || maximum < 1 || maximum > 65535)
    return fail(out, text.at_end() ? DecodeStatus::truncated : DecodeStatus::corrupt,
                "the header has no valid width, height and maximum");
  if (!accept_size(width, height, 2, options.limits, out)) return;
  const size_t count = static_cast<size_t>(width * height), wide = maximum < 256 ? 1 : 2,
               start = text.position() + 1;
  if (start > bytes.size() || bytes.size() - start < count * wide)
    return fail(out, DecodeStatus::truncated, kEndsEarly);
  if (!accept_memory(0, 2, false, options, out)) return;
  const Bytes data = bytes.subspan(start);
  samples.resize(count);
  for (size_t i = 0; i < count; ++i)
    samples[i] = wide == 1 ? data[i] : static_cast<uint16_t>(unsigned{data[2 * i]} << 8 | data[2 * i + 1]);
  out.status = DecodeStatus::ok;
}

}  // namespace dino::imaging
