// SPDX-License-Identifier: Apache-2.0
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
// jpeglib.h needs <cstdio> first.
#include <jpeglib.h>
#include <png.h>

#include "imaging/image.hpp"

namespace dino {
namespace {

int png_colour(int64_t channels) {
  return channels == 4 ? PNG_COLOR_TYPE_RGBA : channels == 3 ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_GRAY;
}

void png_append(png_structp png, png_bytep data, size_t count) {
  auto& out = *static_cast<std::vector<uint8_t>*>(png_get_io_ptr(png));
  out.insert(out.end(), data, data + count);
}

void png_flush_nothing(png_structp /*png*/) {}

bool write_png(png_structp png, png_infop info, const Image& image, std::vector<uint8_t>& out) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_write_fn(png, &out, png_append, png_flush_nothing);
  png_set_IHDR(png, info, static_cast<png_uint_32>(image.width), static_cast<png_uint_32>(image.height), 8,
               png_colour(image.channels), PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, info);
  for (int64_t y = 0; y < image.height; ++y) png_write_row(png, image.at(0, y));
  png_write_end(png, info);
  return true;
}

struct JpegErrors {
  jpeg_error_mgr manager{};
  std::jmp_buf jump{};
};

[[noreturn]] void on_jpeg_error(j_common_ptr info) {
  std::longjmp(reinterpret_cast<JpegErrors*>(info->err)->jump, 1);
}

bool write_jpeg(jpeg_compress_struct& info, JpegErrors& errors, const Image& image, int quality,
                unsigned char** memory, unsigned long* size) {
  if (setjmp(errors.jump) != 0) return false;
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, memory, size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = static_cast<int>(image.channels);
  info.in_color_space = image.channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  info.dct_method = JDCT_ISLOW;
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPROW>(image.at(0, info.next_scanline));
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  return true;
}

}  // namespace

std::vector<uint8_t> encode_png(const Image& image) {
  DINO_CHECK(image.channels == 1 || image.channels == 3 || image.channels == 4, "channels");
  std::vector<uint8_t> out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  const bool written = info != nullptr && write_png(png, info, image, out);
  png_destroy_write_struct(&png, &info);
  if (!written) throw InternalError("encoding a PNG failed");
  return out;
}

std::vector<uint8_t> encode_jpeg(const Image& image, int quality) {
  DINO_CHECK(image.channels == 1 || image.channels == 3, "channels");
  jpeg_compress_struct info{};
  JpegErrors errors;
  info.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = on_jpeg_error;
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  const bool written = write_jpeg(info, errors, image, quality, &memory, &size);
  jpeg_destroy_compress(&info);
  std::vector<uint8_t> out;
  if (written) out.assign(memory, memory + size);
  std::free(memory);
  if (!written) throw InternalError("encoding a JPEG failed");
  return out;
}

}  // namespace dino
