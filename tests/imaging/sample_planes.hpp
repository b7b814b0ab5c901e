// SPDX-License-Identifier: Apache-2.0
#pragma once
// PNG files of numbers.

#include <png.h>

#include <vector>

#include "imaging/image.hpp"

namespace dino::test {

/// Grey of `bits`, or a palette with `palette`, whose colours have nothing to do with the indices.
inline std::vector<uint8_t> png_plane(int64_t width, int64_t height, const std::vector<uint16_t>& values,
                                      int bits, bool palette = false, bool interlaced = false) {
  std::vector<uint8_t> out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp p, png_bytep data, size_t count) {
        auto& to = *static_cast<std::vector<uint8_t>*>(png_get_io_ptr(p));
        to.insert(to.end(), data, data + count);
      },
      nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(width), static_cast<png_uint_32>(height), bits,
               palette ? PNG_COLOR_TYPE_PALETTE : PNG_COLOR_TYPE_GRAY,
               interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  std::vector<png_color> colours(size_t{1} << std::min(bits, 8));
  for (size_t i = 0; i < colours.size(); ++i)
    colours[i] = {static_cast<png_byte>(255 - i), static_cast<png_byte>(3 * i), 9};
  if (palette) png_set_PLTE(png, info, colours.data(), static_cast<int>(colours.size()));
  png_write_info(png, info);
  png_set_packing(png);
  std::vector<uint8_t> raw;
  for (const uint16_t value : values) {
    if (bits == 16) raw.push_back(static_cast<uint8_t>(value >> 8));
    raw.push_back(static_cast<uint8_t>(value & 0xffU));
  }
  const size_t row = static_cast<size_t>(width) * (bits == 16 ? 2 : 1);
  std::vector<png_bytep> rows;
  for (size_t y = 0; y < static_cast<size_t>(height); ++y) rows.push_back(raw.data() + y * row);
  png_write_image(png, rows.data());
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return out;
}

}  // namespace dino::test
