// SPDX-License-Identifier: Apache-2.0
#pragma once
// Image files that the tests make by hand.

#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
// jpeglib.h needs <cstdio> first.
#include <gtest/gtest.h>
#include <jpeglib.h>
#include <png.h>
#include <zlib.h>

#include <string>
#include <string_view>
#include <vector>

#include "imaging/image.hpp"

namespace dino::test {

using Bytes = std::vector<uint8_t>;

inline Bytes bytes_of(std::string_view text) {
  return Bytes(text.begin(), text.end());
}

inline Image decode_ok(const Bytes& bytes, const DecodeOptions& options = {}) {
  Decoded decoded = decode_image(bytes, options);
  EXPECT_STREQ(name_of(decoded.status), "ok") << decoded.message;
  return std::move(decoded.image);
}

/// A smooth colour picture with structure at several scales.
inline Image picture(int64_t width, int64_t height, int seed = 1) {
  Image image{width, height, 3, {}};
  image.pixels.resize(static_cast<size_t>(width * height * 3));
  Random random(static_cast<uint64_t>(seed), RandomStream::test, 0);
  const double a = random.uniform(2, 9), b = random.uniform(2, 9), c = random.uniform(0, 6);
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const double u = static_cast<double>(x) / static_cast<double>(width);
      const double v = static_cast<double>(y) / static_cast<double>(height);
      uint8_t* p = image.at(x, y);
      p[0] = static_cast<uint8_t>(127.0 + 120.0 * std::sin(a * u + 2 * v + c));
      p[1] = static_cast<uint8_t>(127.0 + 120.0 * std::sin(b * v - 3 * u + c));
      p[2] = static_cast<uint8_t>(127.0 + 120.0 * std::sin((a + b) * u * v + c));
    }
  }
  return image;
}

inline void append_chunk(Bytes& png, const char* name, const Bytes& data) {
  const auto put = [&](uint32_t v) {
    for (int shift = 24; shift >= 0; shift -= 8) png.push_back(static_cast<uint8_t>(v >> shift));
  };
  put(static_cast<uint32_t>(data.size()));
  const size_t start = png.size();
  png.insert(png.end(), name, name + 4);
  png.insert(png.end(), data.begin(), data.end());
  put(static_cast<uint32_t>(crc32(0, png.data() + start, static_cast<uInt>(png.size() - start))));
}

/// A PNG of any kind: `rows` holds the filtered scanlines (a filter byte before each).
inline Bytes make_png(uint32_t width, uint32_t height, uint8_t depth, uint8_t colour, const Bytes& rows,
                      const std::vector<std::pair<const char*, Bytes>>& extra = {}) {
  Bytes png = bytes_of("\x89PNG\r\n\x1a\n");
  Bytes header;
  for (uint32_t v : {width, height}) {
    for (int shift = 24; shift >= 0; shift -= 8) header.push_back(static_cast<uint8_t>(v >> shift));
  }
  header.insert(header.end(), {depth, colour, 0, 0, 0});
  append_chunk(png, "IHDR", header);
  for (const auto& [name, data] : extra) append_chunk(png, name, data);
  Bytes packed(compressBound(static_cast<uLong>(rows.size())));
  uLongf size = packed.size();
  compress(packed.data(), &size, rows.data(), rows.size());
  packed.resize(size);
  append_chunk(png, "IDAT", packed);
  append_chunk(png, "IEND", {});
  return png;
}

/// Adam7-interlaced RGB through libpng.
inline Bytes interlaced_png(const Image& image) {
  Bytes out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp p, png_bytep data, size_t n) {
        auto& target = *static_cast<Bytes*>(png_get_io_ptr(p));
        target.insert(target.end(), data, data + n);
      },
      nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(image.width), static_cast<png_uint_32>(image.height), 8,
               PNG_COLOR_TYPE_RGB, PNG_INTERLACE_ADAM7, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  std::vector<png_bytep> rows;
  for (int64_t y = 0; y < image.height; ++y) rows.push_back(const_cast<png_bytep>(image.at(0, y)));
  png_set_rows(png, info, rows.data());
  png_write_png(png, info, PNG_TRANSFORM_IDENTITY, nullptr);
  png_destroy_write_struct(&png, &info);
  return out;
}

/// A one-colour JPEG in Adobe's inverted CMYK (or YCCK, or progressive RGB when `space` is JCS_RGB).
inline Bytes special_jpeg(int64_t side, J_COLOR_SPACE input, J_COLOR_SPACE space, const Bytes& colour,
                          bool progressive = false) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &memory, &size);
  info.image_width = info.image_height = static_cast<JDIMENSION>(side);
  info.input_components = static_cast<int>(colour.size());
  info.in_color_space = input;
  jpeg_set_defaults(&info);
  jpeg_set_colorspace(&info, space);
  if (progressive) jpeg_simple_progression(&info);
  jpeg_set_quality(&info, 95, TRUE);
  jpeg_start_compress(&info, TRUE);
  Bytes row;
  for (int64_t x = 0; x < side; ++x) row.insert(row.end(), colour.begin(), colour.end());
  JSAMPROW pointer = row.data();
  while (info.next_scanline < info.image_height) jpeg_write_scanlines(&info, &pointer, 1);
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  Bytes out(memory, memory + size);
  std::free(memory);
  return out;
}

/// A TIFF-structured EXIF block with one entry: the orientation.
inline Bytes exif_block(uint16_t orientation, bool little) {
  Bytes b = bytes_of(little ? "II" : "MM");
  const auto put = [&](uint32_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) {
      b.push_back(static_cast<uint8_t>(value >> 8 * (little ? i : bytes - 1 - i)));
    }
  };
  put(42, 2), put(8, 4), put(1, 2);
  put(0x0112, 2), put(3, 2), put(1, 4), put(orientation, 2), put(0, 2);
  put(0, 4);
  return b;
}

inline Bytes with_exif(const Bytes& jpeg, const Bytes& exif) {
  Bytes out(jpeg.begin(), jpeg.begin() + 2);
  const size_t length = exif.size() + 8;
  out.insert(out.end(), {0xff, 0xe1, static_cast<uint8_t>(length >> 8), static_cast<uint8_t>(length & 255)});
  for (char c : {'E', 'x', 'i', 'f', '\0', '\0'}) out.push_back(static_cast<uint8_t>(c));
  out.insert(out.end(), exif.begin(), exif.end());
  out.insert(out.end(), jpeg.begin() + 2, jpeg.end());
  return out;
}

inline double mean_difference(const Image& a, const Image& b) {
  if (a.pixels.size() != b.pixels.size()) return 1e9;
  double sum = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) sum += std::abs(int{a.pixels[i]} - int{b.pixels[i]});
  return sum / static_cast<double>(a.pixels.size());
}

}  // namespace dino::test
