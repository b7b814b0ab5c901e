// SPDX-License-Identifier: Apache-2.0
// PNG through libpng. As in decode_jpeg.cpp, what owns memory lives outside the functions that setjmp guards.
#include <png.h>

#include <cstring>
#include <vector>

#include "imaging/decoders.hpp"

namespace dino::imaging {
namespace {

struct PngReader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  Bytes bytes;
  size_t position = 0;
  bool truncated = false, memory = false;
  bool whole = false;  ///< every pixel has been read
  char message[160] = {};
  int orientation = 0;
  int64_t channels = 3;
  std::vector<png_bytep> rows;

  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void on_error(png_structp png, png_const_charp text) {
  auto& reader = *static_cast<PngReader*>(png_get_error_ptr(png));
  std::strncpy(reader.message, text, sizeof(reader.message) - 1);
  if (std::strstr(text, "memory") != nullptr) reader.memory = true;
  png_longjmp(png, 1);
}

void on_warning(png_structp /*png*/, png_const_charp /*text*/) {}

void on_read(png_structp png, png_bytep target, size_t count) {
  auto& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
  if (count > reader.bytes.size() - reader.position) {
    reader.truncated = true;
    png_error(png, "the file ends early");
  }
  std::memcpy(target, reader.bytes.data() + reader.position, count);
  reader.position += count;
}

/// Texts and profiles may inflate to any size; what is used of them, png_text_orientation reads.
void skip_unused_chunks(png_structp png) {
  static constexpr png_byte names[] = "tEXt\0zTXt\0iTXt\0iCCP\0sPLT\0hIST";
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, 6);
}

bool read_header(PngReader& reader, const DecodeOptions& options, Decoded& out) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  png_structp png = reader.png;
  png_infop info = reader.info;
  png_set_read_fn(png, &reader, on_read);
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
  skip_unused_chunks(png);
  png_read_info(png, info);
  if (!accept_size(png_get_image_width(png, info), png_get_image_height(png, info), 4, options.limits, out)) {
    return false;
  }
  const int colour = png_get_color_type(png, info);
  const bool transparent =
      (colour & PNG_COLOR_MASK_ALPHA) != 0 || png_get_valid(png, info, PNG_INFO_tRNS) != 0;
  png_set_scale_16(png);
  png_set_expand(png);  // palette -> RGB, 1/2/4-bit gray -> 8, tRNS -> alpha
  png_set_gray_to_rgb(png);
  png_set_interlace_handling(png);
  reader.channels = transparent ? 4 : 3;
#ifdef PNG_eXIf_SUPPORTED
  png_bytep exif = nullptr;
  png_uint_32 length = 0;
  if (png_get_eXIf_1(png, info, &length, &exif) != 0) {
    reader.orientation = exif_orientation(Bytes(exif, length));
  }
#endif
  if (reader.orientation == 0) reader.orientation = png_text_orientation(reader.bytes);
  // A pointer per row; libpng holds two rows of up to 8 bytes a pixel.
  const double held = 8.0 * png_get_image_height(png, info) + 64.0 * png_get_image_width(png, info);
  if (!accept_memory(held, reader.channels, reader.orientation > 1, options, out)) return false;
  png_read_update_info(png, info);
  return true;
}

/// One channel as stored: no colours of a palette, no scaling.
bool read_plane_header(PngReader& reader, const DecodeOptions& options, Decoded& out) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  png_structp png = reader.png;
  png_infop info = reader.info;
  png_set_read_fn(png, &reader, on_read);
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
  skip_unused_chunks(png);
  png_read_info(png, info);
  if (!accept_size(png_get_image_width(png, info), png_get_image_height(png, info), 2, options.limits, out))
    return false;
  const int colour = png_get_color_type(png, info);
  if (colour != PNG_COLOR_TYPE_GRAY && colour != PNG_COLOR_TYPE_PALETTE) {
    fail(out, DecodeStatus::unsupported, "it has colours or transparency where one number a pixel is needed");
    return false;
  }
  png_set_packing(png);  // 1, 2 and 4 bits: a byte each, not scaled
  png_set_interlace_handling(png);
  reader.channels = png_get_bit_depth(png, info) == 16 ? 2 : 1;
  const double held = 8.0 * png_get_image_height(png, info) + 64.0 * png_get_image_width(png, info);
  if (!accept_memory(held, 2 + reader.channels, false, options, out)) return false;
  png_read_update_info(png, info);
  return true;
}

bool read_pixels(PngReader& reader) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  png_read_image(reader.png, reader.rows.data());
  reader.whole = true;
  png_read_end(reader.png, nullptr);
  return true;
}

void report(const PngReader& reader, Decoded& out) {
  fail(out,
       reader.memory      ? DecodeStatus::memory
       : reader.truncated ? DecodeStatus::truncated
                          : DecodeStatus::corrupt,
       reader.message);
}

bool begin_png(PngReader& reader, Bytes bytes, Decoded& out) {
  reader.bytes = bytes;
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
  if (reader.png != nullptr) reader.info = png_create_info_struct(reader.png);
  if (reader.info == nullptr) fail(out, DecodeStatus::memory, "not enough memory");
  return reader.info != nullptr;
}

}  // namespace

void decode_png_plane(Bytes bytes, const DecodeOptions& options, Decoded& out,
                      std::vector<uint16_t>& samples) {
  PngReader reader;
  if (!begin_png(reader, bytes, out)) return;
  if (!read_plane_header(reader, options, out)) {
    if (out.message.empty()) report(reader, out);
    return;
  }
  const auto width = static_cast<size_t>(out.file_width), height = static_cast<size_t>(out.file_height),
             row_bytes = width * static_cast<size_t>(reader.channels);
  if (png_get_rowbytes(reader.png, reader.info) != row_bytes)
    return fail(out, DecodeStatus::unsupported, "an unexpected pixel layout");
  std::vector<uint8_t> raw(row_bytes * height);
  reader.rows.resize(height);
  for (size_t y = 0; y < height; ++y) reader.rows[y] = raw.data() + y * row_bytes;
  if (!read_pixels(reader) && !reader.whole) return report(reader, out);
  samples.resize(width * height);
  for (size_t i = 0; i < samples.size(); ++i)
    samples[i] =
        reader.channels == 1 ? raw[i] : static_cast<uint16_t>(unsigned{raw[2 * i]} << 8 | raw[2 * i + 1]);
  out.status = DecodeStatus::ok;
}

void decode_png(Bytes bytes, const DecodeOptions& options, Decoded& out) {
  PngReader reader;
  if (!begin_png(reader, bytes, out)) return;
  if (!read_header(reader, options, out)) {
    if (out.message.empty()) report(reader, out);
    return;
  }
  const auto row_bytes = static_cast<size_t>(out.file_width * reader.channels);
  if (png_get_rowbytes(reader.png, reader.info) != row_bytes) {
    return fail(out, DecodeStatus::unsupported, "an unexpected pixel layout");
  }
  out.image.width = out.file_width;
  out.image.height = out.file_height;
  out.image.channels = reader.channels;
  out.image.pixels.resize(row_bytes * static_cast<size_t>(out.file_height));
  reader.rows.resize(static_cast<size_t>(out.file_height));
  for (size_t y = 0; y < reader.rows.size(); ++y) reader.rows[y] = out.image.pixels.data() + y * row_bytes;
  if (!read_pixels(reader)) {
    if (!reader.whole) return report(reader, out);
    out.note = DecodeNote::end_missing;
  }
  finish(out, options, reader.orientation);
}

}  // namespace dino::imaging
